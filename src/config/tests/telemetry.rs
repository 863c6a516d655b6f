//! `[telemetry]`, and the variables that OpenTelemetry gives a name.

use super::*;

#[test]
fn standard_variables_count_before_the_file_and_behind_our_own() {
    let file = "[telemetry]\nendpoint = 'http://file:4318'\nservice_name = 'file'\nsampling = 1";
    let case = Case::new()
        .file(file)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318/otlp")
        .variable("OTEL_SERVICE_NAME", "standard")
        .variable("OTEL_TRACES_SAMPLER", "always_off")
        .variable("BOX_TELEMETRY__SERVICE_NAME", "ours");
    assert_eq!(
        case.entry("telemetry.endpoint"),
        (
            json!("http://standard:4318/otlp"),
            "OTEL_EXPORTER_OTLP_ENDPOINT".into()
        )
    );
    assert_eq!(case.entry("telemetry.service_name").0, "ours");
    assert_eq!(case.entry("telemetry.sampling").0, 1.0);
    // Unset, as the specification has it.
    let case = Case::new()
        .file(file)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", "");
    assert_eq!(
        case.entry("telemetry.endpoint").0,
        json!("http://file:4318")
    );
}

#[test]
fn nobody_is_handed_anything_unless_an_endpoint_is_set() {
    let config = Case::new().loaded().config;
    let settings = |config: &Config| {
        let environment = config.environment.clone();
        config.telemetry.settings(&environment, "this".to_owned())
    };
    assert!(settings(&config).is_none());
    let case = Case::new()
        .variable("BOX_TELEMETRY__ENDPOINT", "http://collector:4318")
        .variable("BOX_TELEMETRY__SAMPLING", "0.25");
    let settings = settings(&case.loaded().config).unwrap();
    let traces = settings.endpoint.join("v1/traces").unwrap();
    assert_eq!(traces.as_str(), "http://collector:4318/v1/traces");
    assert_eq!(settings.sampling, 0.25);
    assert!(settings.headers.is_empty());
}

#[test]
fn what_is_out_of_bounds_is_refused_and_secrets_are_not_repeated() {
    for (name, value, told) in [
        (
            "BOX_TELEMETRY__SAMPLING",
            "2",
            "expected a number from 0 to 1",
        ),
        ("BOX_TELEMETRY__QUEUE", "0", "must be at least 1"),
        ("BOX_TELEMETRY__TIMEOUT", "0", "must be more than 0"),
        ("BOX_TELEMETRY__LOGS", "info", "expected off, error or warn"),
        (
            "BOX_TELEMETRY__ENDPOINT",
            "http://me:s3cret@host",
            "must not hold credentials",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "s3cret",
            "expected fields such as",
        ),
    ] {
        let problem = Case::new().variable(name, value).refused();
        assert!(
            problem.starts_with(name) && problem.contains(told),
            "{problem}"
        );
        assert!(!problem.contains("s3cret"), "{problem}");
    }
    let problem = Case::new().file("[telemetry]\nqueue = 1.5").refused();
    assert!(problem.contains("a number with a fraction"), "{problem}");
}

#[test]
fn headers_are_shown_as_a_secret() {
    let case = Case::new().variable("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret");
    assert_eq!(case.entry("telemetry.headers").0, MASK);
    let loaded = case.loaded();
    for text in [
        loaded.show(),
        loaded.show_json().to_string(),
        format!("{:?}", loaded.config),
    ] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}
