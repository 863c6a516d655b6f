use super::*;

/// Without what has a default.
pub(super) const MINIMAL: &str = r#"
[[auth.issuers]]
issuer = "https://id.example.com/"
jwks_url = "https://id.example.com/.well-known/jwks.json"
audience = "https://files.example.com"
tenants = ["acme", "globex"]
"#;

#[test]
fn issuers_are_tables_or_json_and_are_shown_with_every_key() {
    let json = json!([{
        "issuer": "https://id.example.com/",
        "jwks_url": "https://id.example.com/.well-known/jwks.json",
        "audience": ["https://files.example.com"],
        "tenants": ["acme", "globex"],
        "tenant_claim": "tenant",
        "subject_claim": "sub",
        "scope_claim": "scope",
    }]);
    let file = Case::new().file(MINIMAL);
    assert_eq!(
        file.entry("auth.issuers"),
        (json.clone(), "file config.toml".to_owned())
    );
    let variable = Case::new().variable("BOX_AUTH__ISSUERS", &json.to_string());
    assert_eq!(
        variable.entry("auth.issuers"),
        (json, "BOX_AUTH__ISSUERS".to_owned())
    );
    let shown = file.loaded().show();
    assert!(
        shown.contains("auth.issuers = [{ audience = [\"https://files.example.com\"], issuer = ")
    );
    let again = Case::new().file(&shown).loaded();
    assert_eq!(again.config.auth.issuers, file.loaded().config.auth.issuers);
}

#[test]
fn an_environment_replaces_the_issuers() {
    let file = format!(
        "{MINIMAL}[environments.staging]\nauth.issuers = []\n\
         [[environments.production.auth.issuers]]\nissuer = 'https://prod.example.com'\n\
         jwks_url = 'https://prod.example.com/keys'\naudience = 'box'\ntenants = ['*']\n"
    );
    let names = |environment: &str| -> Vec<String> {
        let case = Case::new()
            .file(&file)
            .variable("BOX_ENVIRONMENT", environment);
        let issuers = case.loaded().config.auth.issuers;
        issuers.into_iter().map(|issuer| issuer.issuer).collect()
    };
    assert_eq!(names("development"), ["https://id.example.com/"]);
    assert_eq!(names("production"), ["https://prod.example.com"]);
    assert_eq!(names("staging"), [""; 0]);
}

#[test]
fn an_issuer_that_could_not_be_trusted_is_refused() {
    // With one key said otherwise, or left out.
    let with = |key: &str, line: &str| {
        let start = format!("{key} = ");
        let others = MINIMAL.lines().filter(|line| !line.starts_with(&start));
        others.chain([line]).collect::<Vec<_>>().join("\n")
    };
    for (key, line, told) in [
        ("jwks_url", "", "[0].jwks_url: is missing"),
        ("audience", "", "[0].audience: is missing"),
        ("tenants", "", "[0].tenants: is missing"),
        (
            "jwks_url",
            "jwks_uri = ''",
            "[0].jwks_uri: unknown key; the keys here are issuer, jwks_url, ",
        ),
        (
            "tenants",
            "tenants = []",
            "[0].tenants: expected a list of at least one tenant",
        ),
        (
            "tenants",
            "tenants = ['a/b']",
            "[0].tenants: expected a list of at least one tenant",
        ),
        (
            "tenants",
            "tenants = ['*', 'a']",
            "[0].tenants: expected a list of at least one tenant",
        ),
        (
            "jwks_url",
            "jwks_url = 'keys.json'",
            "[0].jwks_url: expected an https URL",
        ),
        (
            "audience",
            "audience = []",
            ": [0]: audience must have at least one",
        ),
        (
            "audience",
            "audience = ['']",
            ": [0]: audience must have at least one",
        ),
        ("issuer", "issuer = ''", ": [0]: issuer must not be empty"),
        (
            "",
            "scope_claim = ''",
            ": [0]: scope_claim must not be empty",
        ),
    ] {
        let error = Case::new().file(&with(key, line)).refused();
        let told = format!("config.toml: auth.issuers{told}");
        assert!(error.starts_with(&told), "{error}");
    }
    let twice = Case::new().file(&MINIMAL.repeat(2)).refused();
    assert!(
        twice.contains("auth.issuers: [1]: the issuer \"https://id.example.com/\" is there twice")
    );
    for file in [
        "auth.issuers = 'https://id.example.com'",
        "auth.issuers = [['a']]",
        "auth.issuers = [7]",
        "auth.issuers = 7",
    ] {
        assert!(
            Case::new().file(file).refused().contains("auth.issuers"),
            "{file}"
        );
    }

    let open = with("jwks_url", "jwks_url = 'http://keycloak:8080/keys'");
    Case::new().file(&open).loaded();
    let production = Case::new()
        .file(&open)
        .variable("BOX_ENVIRONMENT", "production");
    let error = production.refused();
    assert!(
        error.contains("auth.issuers: [0]: jwks_url must be https"),
        "{error}"
    );

    let json = |text: &str| Case::new().variable("BOX_AUTH__ISSUERS", text).refused();
    assert!(json("https://id.example.com").starts_with("BOX_AUTH__ISSUERS: "));
    let unknown = json(r#"[{"issuer": "a", "jwks_uri": "b"}]"#);
    assert!(
        unknown.contains("[0]") && unknown.contains("jwks_uri"),
        "{unknown}"
    );
    assert!(json("[] []").starts_with("BOX_AUTH__ISSUERS: "));
}
