use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::auth::signed_by;

use super::{hmac, split, take};

/// Of RFC 7515, appendices A.2 and A.3: the keys, what they signed, and the signatures.
const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const SIGNED: [(&str, &str); 2] = [
    (
        "eyJhbGciOiJSUzI1NiJ9",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ),
    (
        "eyJhbGciOiJFUzI1NiJ9",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    ),
];

/// Of a JWK Set that an issuer answers, and of tokens that are said to be signed with its keys:
/// whatever the set holds, a token was signed with an algorithm that a public key can have; a token that was
/// changed anywhere is signed by none; keys beside those that signed it take nothing away; and a public
/// key is nobody's secret for HS256.
///
/// The input: one byte that says which of these, and the rest of it.
pub fn jwks(mut input: &[u8]) {
    let [kind] = take(&mut input);
    match kind % 4 {
        0 => any_set(input),
        1 => changed(input),
        2 => beside(input),
        _ => confused(input),
    }
}

fn any_set(input: &[u8]) {
    let (set, token) = split(input, 0);
    let Ok(token) = std::str::from_utf8(token) else {
        return;
    };
    if signed_by(set, token) == Some(true) {
        let header = token.split('.').next().unwrap_or_default();
        let header = URL_SAFE_NO_PAD.decode(header).expect("it was read");
        let header: Value = serde_json::from_slice(&header).expect("it was read");
        let known = ["RS256", "PS256", "ES256", "EdDSA"];
        assert!(known.iter().any(|name| header["alg"] == *name), "{header}");
    }
}

fn changed(mut input: &[u8]) {
    let [which] = take(&mut input);
    let before = token(which);
    let mut token = before.clone().into_bytes();
    while !input.is_empty() {
        let [high, low, byte] = take(&mut input);
        let at = usize::from(u16::from_be_bytes([high, low])) % token.len();
        token[at] = byte;
    }
    let Ok(token) = String::from_utf8(token) else {
        return;
    };
    let signed = signed_by(set("").as_bytes(), &token).unwrap_or(false);
    assert_eq!(signed, token == before, "{token}");
}

fn beside(mut input: &[u8]) {
    let [which] = take(&mut input);
    let Ok(others) = std::str::from_utf8(input) else {
        return;
    };
    let set = set(&format!(", {others}"));
    assert_ne!(
        signed_by(set.as_bytes(), &token(which)),
        Some(false),
        "{set}"
    );
}

fn confused(mut input: &[u8]) {
    let [which] = take(&mut input);
    let (header, claims) = split(input, 0);
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let secret = match which % 4 {
        0 => N.as_bytes().to_vec(),
        1 => URL_SAFE_NO_PAD.decode(N).expect("it is base64"),
        2 => X.as_bytes().to_vec(),
        _ => set("").into_bytes(),
    };
    let signature = URL_SAFE_NO_PAD.encode(hmac(&secret, text.as_bytes()));
    let token = format!("{text}.{signature}");
    assert_ne!(signed_by(set("").as_bytes(), &token), Some(true), "{token}");
}

fn token(which: u8) -> String {
    let (header, signature) = SIGNED[usize::from(which) % SIGNED.len()];
    format!("{header}.{CLAIMS}.{signature}")
}

/// Both keys, and `others` behind them.
fn set(others: &str) -> String {
    format!(
        r#"{{"keys": [{{"kty": "RSA", "n": "{N}", "e": "AQAB"}},
                      {{"kty": "EC", "crv": "P-256", "x": "{X}", "y": "{Y}"}}{others}]}}"#
    )
}
