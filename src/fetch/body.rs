//! The bytes of an answer: taken up again where they break off, decoded, and never silent for long.

use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZlibDecoder};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::Response;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED,
};
use tokio::io::AsyncRead;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::io::{ReaderStream, StreamReader};
use url::Url;

use super::{Failure, Fault, Fetcher, encodings, failure};

/// Bytes as they come, in order. An `Err` ends it.
pub type ByteStream = BoxStream<'static, Result<Bytes, Failure>>;

/// How often a transfer is taken up again that brings less than [`PROGRESS`] in between.
const RESUMES: u32 = 5;
const PROGRESS: u64 = 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What a decoder gives at once: however small its input was.
const DECODED: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

/// How a body is encoded, the last coding last.
///
/// # Errors
/// A coding that is not known here, or several.
pub(super) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Failure> {
    let codings: Option<Vec<Coding>> = encodings(headers)
        .map(|coding| match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        })
        .collect();
    codings.filter(|codings| codings.len() <= 1).ok_or_else(|| {
        Failure::new(
            Fault::Connect,
            "the answer has a Content-Encoding that was not asked for",
        )
    })
}

pub(super) fn stream(
    fetcher: Fetcher,
    response: Response,
    url: Url,
    headers: HeaderMap,
    deadline: Instant,
    codings: Vec<Coding>,
) -> ByteStream {
    let raw = raw(fetcher, response, url, headers, deadline);
    let Some(coding) = codings.first() else {
        return raw.boxed();
    };
    let reader = StreamReader::new(Box::pin(raw.map_err(std::io::Error::other)));
    match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            decoded(decoder)
        }
        Coding::Deflate => decoded(ZlibDecoder::new(reader)),
    }
}

fn decoded(reader: impl AsyncRead + Send + 'static) -> ByteStream {
    ReaderStream::with_capacity(reader, DECODED)
        .map_err(|error| {
            let own = error
                .get_ref()
                .and_then(|cause| cause.downcast_ref::<Failure>());
            own.cloned().unwrap_or_else(|| {
                Failure::new(
                    Fault::Connect,
                    "the body is not what its Content-Encoding says",
                )
            })
        })
        .boxed()
}

/// What a transfer needs to be taken up again.
struct Resumable {
    validator: HeaderValue,
    /// Of all of it, in bytes.
    total: Option<u64>,
}

fn raw(
    fetcher: Fetcher,
    mut response: Response,
    url: Url,
    headers: HeaderMap,
    deadline: Instant,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    async_stream::try_stream! {
        let resumable = resumable(&response);
        let (mut offset, mut resumed_at, mut resumes) = (0, 0, 0);
        loop {
            let broken = match next(&fetcher, &mut response, deadline).await {
                Ok(None) => break,
                Ok(Some(chunk)) => {
                    offset += chunk.len() as u64;
                    yield chunk;
                    continue;
                }
                Err(broken) => broken,
            };
            let Some(resumable) = &resumable else {
                Err(broken)?;
                break;
            };
            if offset - resumed_at >= PROGRESS {
                resumes = 0;
            }
            resumed_at = offset;
            response = loop {
                resumes += 1;
                if !broken.retry || resumes > RESUMES || offset == 0 || Instant::now() >= deadline {
                    Err(broken.clone())?;
                }
                sleep(FIRST_PAUSE * (1 << (resumes - 1))).await;
                match resume(&fetcher, &url, &headers, offset, resumable, deadline).await {
                    Ok(response) => break response,
                    // It broke off again; an answer would be one to the whole attempt.
                    Err(failure) if failure.retry && failure.status.is_none() => {}
                    Err(failure) => Err(failure)?,
                }
            };
        }
    }
}

async fn next(
    fetcher: &Fetcher,
    response: &mut Response,
    deadline: Instant,
) -> Result<Option<Bytes>, Failure> {
    let stalled = Instant::now() + fetcher.settings.stall_timeout;
    match timeout_at(stalled.min(deadline), response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) if Instant::now() >= deadline => Err(Failure::passing(
            Fault::Timeout,
            "the whole body did not come in time",
        )),
        Err(_) => Err(Failure::passing(
            Fault::Timeout,
            "no byte of the body came for too long",
        )),
    }
}

async fn resume(
    fetcher: &Fetcher,
    url: &Url,
    headers: &HeaderMap,
    offset: u64,
    resumable: &Resumable,
    deadline: Instant,
) -> Result<Response, Failure> {
    let validator = &resumable.validator;
    let response = fetcher
        .resume(url, headers, offset, validator, deadline)
        .await?;
    let continues = content_range(response.headers()).is_some_and(|(first, total)| {
        first == offset && resumable.total.is_none_or(|all| all == total)
    });
    if continues {
        Ok(response)
    } else {
        Err(Failure::new(
            Fault::Connect,
            "the rest of the body is not what was asked for",
        ))
    }
}

fn resumable(response: &Response) -> Option<Resumable> {
    let headers = response.headers();
    let none = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"none");
    if headers.get(ACCEPT_RANGES).is_some_and(none) {
        return None;
    }
    let etag = headers
        .get(ETAG)
        .filter(|tag| tag.as_bytes().starts_with(b"\""));
    let validator = etag.or_else(|| {
        headers
            .get(LAST_MODIFIED)
            .filter(|modified| is_strong(modified, headers.get(DATE)))
    })?;
    Some(Resumable {
        validator: validator.clone(),
        total: response.content_length(),
    })
}

/// A date is a strong validator where it lies well before the answer (RFC 9110, section 8.8.2.2).
fn is_strong(modified: &HeaderValue, date: Option<&HeaderValue>) -> bool {
    let time = |value: &HeaderValue| httpdate::parse_http_date(value.to_str().ok()?).ok();
    let (Some(modified), Some(date)) = (time(modified), date.and_then(time)) else {
        return false;
    };
    date.duration_since(modified)
        .is_ok_and(|age| age >= Duration::from_secs(60))
}

/// The first byte and the length of the whole, of `bytes 0-99/200`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()?))
}
