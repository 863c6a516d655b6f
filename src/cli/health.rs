//! `box healthcheck`: for containers, whose images have no curl.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::Config;

use super::Failure;

const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn check(mut config: Config) -> Result<ExitCode, Failure> {
    // The service itself is asked, not what stands in front of it.
    config.public_url = None;
    let listen: SocketAddr = config.listen;
    let url = config.public_url_at(listen).join("health/ready")?;
    let answer = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?
        .get(url)
        .send()
        .await;
    match answer {
        Ok(response) if response.status().is_success() => Ok(ExitCode::SUCCESS),
        Ok(response) => {
            eprintln!("box: not ready: {}", response.status());
            Ok(ExitCode::from(1))
        }
        Err(error) => {
            eprintln!("box: not ready: {error}");
            Ok(ExitCode::from(1))
        }
    }
}
