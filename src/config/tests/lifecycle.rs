use super::*;

const RULE: &str = "[[lifecycle.rules]]\nname = 'a'\n";

#[test]
fn rules_are_tables_or_json_and_are_shown_with_every_key() {
    let file = Case::new().file(
        "[[lifecycle.rules]]\nname = 'a'\ntenant = 'acme'\nprefix = 'x/'\ncontent_type = 'image/*'\n\
         metadata = { a = [1], b = { c = true } }\nexpire_after = '2d'\n\
         [[lifecycle.rules]]\nname = 'b'\ntrash_after = '1h'\n",
    );
    let shown = json!([
        {"name": "a", "tenant": "acme", "prefix": "x/", "content_type": "image/*",
         "metadata": {"a": [1], "b": {"c": true}}, "trash_after": null, "expire_after": "2d"},
        {"name": "b", "tenant": null, "prefix": null, "content_type": null,
         "metadata": {}, "trash_after": "1h", "expire_after": null},
    ]);
    assert_eq!(
        file.entry("lifecycle.rules"),
        (shown, "file config.toml".to_owned())
    );
    let rules = file.loaded().config.lifecycle.rules;
    let again = Case::new().file(&file.loaded().show()).loaded();
    assert_eq!(again.config.lifecycle.rules, rules);
    let json = r#"[{"name": "b", "trash_after": "1h"}]"#;
    let variable = Case::new().variable("BOX_LIFECYCLE__RULES", json).loaded();
    assert_eq!(variable.config.lifecycle.rules, rules[1..]);
}

#[test]
fn a_rule_that_can_do_nothing_is_refused() {
    for (text, told) in [
        ("", "[0]: must have one of trash_after and expire_after"),
        (
            "trash_after = '1d'\nexpire_after = '2d'",
            "[0]: must have one of trash_after and expire_after",
        ),
        (
            "expire_after = '0'",
            "[0]: trash_after and expire_after must be more than 0",
        ),
        (
            "expire_after = 'soon'",
            "[0].expire_after: expected a duration",
        ),
        ("tenant = 'a/b'", "[0].tenant: expected a tenant"),
        (
            "content_type = 'image'\nexpire_after = '1d'",
            "[0]: content_type: expected a content type",
        ),
        (
            "content_type = 'Image/*'\nexpire_after = '1d'",
            "[0]: content_type: expected a content type",
        ),
        (
            "delete_after = '1d'",
            "[0].delete_after: unknown key; the keys here are name, tenant, ",
        ),
    ] {
        let error = Case::new().file(&format!("{RULE}{text}\n")).refused();
        assert!(error.contains(told), "{error}");
    }
    let expires = format!("{RULE}expire_after = '1d'\n");
    let twice = Case::new().file(&expires.repeat(2)).refused();
    assert!(
        twice.contains("lifecycle.rules: [1]: the name \"a\" is there twice"),
        "{twice}"
    );
    let nameless = expires.replace("'a'", "''");
    assert!(
        Case::new()
            .file(&nameless)
            .refused()
            .contains("[0]: name must have 1 to 64")
    );
    let no_trash = format!("trash.keep = '0'\n{RULE}trash_after = '1d'\n");
    assert!(
        Case::new()
            .file(&no_trash)
            .refused()
            .contains("[0]: there is no trash")
    );
    // A content type may have parameters, and is then compared with them.
    let parameters = format!("{expires}content_type = 'text/csv; charset=utf-8'\n");
    Case::new().file(&parameters).loaded();
}

#[test]
fn what_s3_would_refuse_is_refused() {
    let transition = |text: &str| format!("[[lifecycle.transitions]]\nname = 'a'\n{text}\n");
    for (file, told) in [
        (
            "lifecycle.abort_uploads_after = '36h'".to_owned(),
            "lifecycle.abort_uploads_after: must be a number of whole days",
        ),
        (
            "lifecycle.abort_uploads_after = '0'".to_owned(),
            "lifecycle.abort_uploads_after: must be a number of whole days",
        ),
        (
            transition("after = '90d'\nstorage_class = 'GLACIER'"),
            "[0].storage_class: expected a storage class that is read at once",
        ),
        (
            transition("after = '29d'\nstorage_class = 'STANDARD_IA'"),
            "[0]: after must be at least 30d for STANDARD_IA",
        ),
        (
            transition("after = '1h'\nstorage_class = 'GLACIER_IR'"),
            "[0]: after must be a number of whole days",
        ),
        (
            transition("after = '90d'\nprefix = '/a'\nstorage_class = 'GLACIER_IR'"),
            "[0]: prefix must not begin with a slash",
        ),
        (transition("after = '90d'"), "[0].storage_class: is missing"),
    ] {
        let error = Case::new().file(&file).refused();
        assert!(error.contains(told), "{error}");
    }
    let none = Case::new()
        .file("lifecycle.abort_uploads_after = ''")
        .loaded();
    assert_eq!(none.config.lifecycle.abort_uploads_after, None);
    Case::new()
        .file(&transition("after = '1d'\nstorage_class = 'GLACIER_IR'"))
        .loaded();
}
