//! Pieces of any size, below that of a part, of it, and above.

use super::*;

// With flushes: large pieces go past the page cache then, on a disk.
on_every_pair!(with [("BOX_STORE__FSYNC", "true")]; pieces_may_have_any_size);

async fn pieces_may_have_any_size(service: &Service) {
    let client = service.client("acme");
    // On S3 two parts and some of a third.
    let bytes = noise(match service.pair {
        Pair::PostgresS3 => 17 * MIB + 1,
        Pair::SqliteLocal | Pair::PostgresLocal => 7 * MIB + 1,
    });
    for (number, size) in [MIB, 5 * MIB, 8 * MIB, bytes.len()].into_iter().enumerate() {
        // The length is said at first, or with the last piece.
        let is_deferred = number % 2 == 1;
        let request = tus(client.post("/v1/uploads/tus"));
        let path = begun(
            send(if is_deferred {
                request.header("upload-defer-length", 1)
            } else {
                request.header("upload-length", bytes.len())
            })
            .await,
        );
        let mut at = 0;
        for piece in bytes.chunks(size) {
            let mut request = patch(&client, &path, at, piece);
            at += piece.len();
            if is_deferred && at == bytes.len() {
                request = request.header("upload-length", at);
            }
            let answer = send(request).await;
            assert_eq!(answer.status, 204, "{size}: {}", answer.text());
            assert_eq!(answer.header("upload-offset"), at.to_string());
        }
        let file = head(&client, &path).await.header("box-file-id").to_owned();
        assert!(client.content(&file).await == bytes, "{size}");
    }
    service.assert_holds(4).await;
}
