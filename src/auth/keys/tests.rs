//! The tokens and keys are those of RFC 7515, appendices A.2 and A.3. What needs keys that sign is
//! in `tests/it/identity.rs`.

use serde_json::json;

use super::*;

const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const ES256: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

fn es256() -> String {
    format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.{ES256}")
}

fn rs256() -> String {
    format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.{RS256}")
}

fn with(mut key: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

fn ec(changes: Value) -> Value {
    let key = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    with(key, changes)
}

fn rsa(changes: Value) -> Value {
    let key = json!({
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    });
    with(key, changes)
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn signed(keys: &[Value], token: &str) -> bool {
    let token = Token::parse(token).unwrap();
    matches!(set(keys).judge(&token), Verdict::Signed(_))
}

#[test]
fn the_keys_of_the_rfc_verify_its_tokens_and_no_others() {
    assert!(signed(&[ec(json!({}))], &es256()));
    assert!(signed(&[rsa(json!({}))], &rs256()));
    assert!(signed(&[rsa(json!({})), ec(json!({}))], &es256()));
    assert!(!signed(&[rsa(json!({}))], &es256()));
    let swapped = format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.{RS256}");
    assert!(!signed(&[rsa(json!({})), ec(json!({}))], &swapped));
}

#[test]
fn a_key_is_used_for_what_it_says_it_is_for() {
    for fits in [
        json!({"use": "sig"}),
        json!({"key_ops": ["verify"]}),
        json!({"alg": "RS256"}),
        json!({"alg": null, "use": null, "x5c": ["…"], "unheard_of": {"of": 1}}),
    ] {
        assert!(signed(&[rsa(fits.clone())], &rs256()), "{fits}");
    }
    for other in [
        json!({"use": "enc"}),
        json!({"key_ops": ["encrypt"]}),
        json!({"alg": "PS256"}),
        json!({"alg": "RS512"}),
        json!({"alg": "RSA-OAEP"}),
        json!({"alg": "HS256"}),
        json!({"alg": "none"}),
        json!({"kty": "rsa"}),
    ] {
        assert!(!signed(&[rsa(other.clone())], &rs256()), "{other}");
    }
}

#[test]
fn what_can_not_be_used_is_passed_over_and_does_no_harm() {
    let weak = URL_SAFE_NO_PAD.encode([0xff; 128]);
    let padded = URL_SAFE_NO_PAD.encode([vec![0; 200], vec![0xff; 128]].concat());
    let huge = URL_SAFE_NO_PAD.encode([0xff; 2_000]);
    let unusable = [
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
        json!({"kty": 7}),
        json!({}),
        json!("key"),
        json!(null),
        ec(json!({"x": "AA"})),
        ec(json!({"y": null})),
        ec(json!({"x": "not base64url!"})),
        rsa(json!({ "n": weak })),
        rsa(json!({ "n": padded })),
        rsa(json!({ "n": huge })),
        rsa(json!({"n": ""})),
        rsa(json!({"e": null})),
    ];
    assert_eq!(set(&unusable).len(), 0);
    let mut keys = unusable.to_vec();
    keys.push(ec(json!({})));
    assert!(signed(&keys, &es256()));
    for text in ["", "[]", "{}", "null", r#"{"keys": {}}"#] {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many = set(&vec![ec(json!({})); 1_000]);
    assert_eq!(many.len(), MOST_KEYS);
}

#[test]
fn a_number_may_have_zeros_in_front() {
    let n = URL_SAFE_NO_PAD
        .decode(rsa(json!({}))["n"].as_str().unwrap())
        .unwrap();
    let n = URL_SAFE_NO_PAD.encode([vec![0], n].concat());
    assert!(signed(&[rsa(json!({ "n": n, "e": "AAEAAQ" }))], &rs256()));
}

#[test]
fn only_what_another_key_could_change_is_unknown() {
    let judge = |keys: &[Value], header: &str| {
        let header = URL_SAFE_NO_PAD.encode(header);
        let token = format!("{header}.{CLAIMS}.{ES256}");
        let token = Token::parse(&token).unwrap();
        match set(keys).judge(&token) {
            Verdict::Signed(_) => "signed",
            Verdict::Refused => "refused",
            Verdict::Unknown => "unknown",
        }
    };
    let keys = [ec(json!({"kid": "a"})), rsa(json!({"kid": "b"}))];
    for (header, verdict) in [
        // Here, but the signature is over another header.
        (r#"{"alg":"ES256","kid":"a"}"#, "refused"),
        (r#"{"alg":"ES256","kid":"b"}"#, "refused"),
        (r#"{"alg":"ES256","kid":"c"}"#, "unknown"),
        (r#"{"alg":"ES256","kid":""}"#, "unknown"),
        (r#"{"alg":"ES256" }"#, "unknown"),
        (r#"{"alg":"HS256","kid":"c"}"#, "refused"),
        (r#"{"alg":"none","kid":"c"}"#, "refused"),
        (r#"{"alg":"es256","kid":"c"}"#, "refused"),
    ] {
        assert_eq!(judge(&keys, header), verdict, "{header}");
    }
    // As it stands in the RFC, without a key id.
    assert_eq!(judge(&keys, r#"{"alg":"ES256"}"#), "signed");
    for header in [
        r#"{"kid":"a"}"#,
        r#"{"alg":"ES256","crit":["exp"],"exp":1}"#,
        r#"{"alg":"ES256","kid":7}"#,
        r#"{"alg":"ES256","alg":"none"}"#,
        "[]",
    ] {
        let token = format!("{}.{CLAIMS}.{ES256}", URL_SAFE_NO_PAD.encode(header));
        assert!(Token::parse(&token).is_none(), "{header}");
    }
    let (whole, bare) = (es256(), es256().replace('.', ""));
    for text in ["", ".", "..", "a.b.c", &bare, &format!("{whole}.x")] {
        assert!(Token::parse(text).is_none(), "{text}");
    }
}

#[test]
fn a_generation_ends_when_a_key_leaves() {
    let (a, b) = (ec(json!({"kid": "a"})), rsa(json!({"kid": "b"})));
    let first = set(std::slice::from_ref(&a));
    let both = set(&[b.clone(), a.clone()]).following(&first);
    assert_eq!(both.generation(), first.generation());
    let same = set(&[a.clone(), b.clone()]).following(&both);
    assert_eq!(same.generation(), first.generation());
    for left in [
        vec![b.clone()],
        vec![a.clone(), rsa(json!({"kid": "c"}))],
        vec![a.clone(), rsa(json!({"kid": "b", "alg": "PS256"}))],
        vec![a, ec(json!({"kid": "b"}))],
        vec![],
    ] {
        assert_ne!(set(&left).following(&same).generation(), 0);
    }
}
