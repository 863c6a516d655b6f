//! The binary, over one database and one store, as a process that can be killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::Client;
use super::service::{Pair, Parts, laid_over};

pub struct Binary {
    variables: Vec<(String, String)>,
    pub url: String,
    /// None where they are another one's.
    _parts: Option<Parts>,
}

impl Binary {
    /// Over an empty database and an empty store. None where the pair is to be skipped.
    pub async fn over(pair: Pair, settings: &[(&str, &str)]) -> Option<Self> {
        let address = free_address();
        let mut all = vec![
            ("BOX_LISTEN", address.as_str()),
            ("BOX_DATABASE__MAX_CONNECTIONS", "20"),
            ("BOX_LOG__LEVEL", "warn"),
        ];
        all.extend(settings);
        let (parts, variables) = Parts::create(pair, &all).await?;
        Some(Self {
            url: format!("http://{address}"),
            variables,
            _parts: Some(parts),
        })
    }

    /// Another replica over the same database and store.
    pub fn another(&self) -> Self {
        let address = free_address();
        Self {
            url: format!("http://{address}"),
            variables: laid_over(self.variables.clone(), &[("BOX_LISTEN", &address)]),
            _parts: None,
        }
    }

    /// The same, configured otherwise.
    #[must_use]
    pub fn with(mut self, settings: &[(&str, &str)]) -> Self {
        self.variables = laid_over(self.variables, settings);
        self
    }

    /// What it is configured by.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_box"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Of the tenant `acme`.
    pub fn token(&self, scopes: &str) -> String {
        let arguments = [
            "token",
            "--tenant",
            "acme",
            "--subject",
            "tester",
            "--scopes",
            scopes,
            "--ttl",
            "1h",
        ];
        let output = self.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().last().unwrap().to_owned()
    }

    pub fn client(&self, scopes: &str) -> Client {
        Client::new(&self.url, Some(self.token(scopes)))
    }

    /// Answers when it is ready.
    pub async fn start(&self) -> Killed {
        self.ready(&mut self.command(&["serve"])).await
    }

    /// The same, with its log kept.
    pub async fn start_logged(&self) -> Logged {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = self.command(&["serve"]);
        command.stderr(log.reopen().unwrap());
        Logged {
            running: self.ready(&mut command).await,
            log,
        }
    }

    async fn ready(&self, command: &mut Command) -> Killed {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let running = Killed(child);
        let stranger = Client::new(&self.url, None);
        for _ in 0..600 {
            let ready = stranger.get("/health/ready").send().await;
            if ready.is_ok_and(|answer| answer.status() == 200) {
                return running;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the service is not ready");
    }

    /// What `box fsck` says of what is left, with checksums.
    pub fn assert_sound(&self) {
        let fsck = self
            .command(&["fsck", "--verify-checksums"])
            .output()
            .unwrap();
        assert!(fsck.status.success(), "{fsck:?}");
    }
}

/// A process that is killed when the test ends, at the latest.
pub struct Killed(Child);

impl Killed {
    /// SIGKILL, and the end of it.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process, and what it writes to standard error.
pub struct Logged {
    running: Killed,
    log: tempfile::NamedTempFile,
}

impl Logged {
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// The lines, which are JSON.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        let read = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        log.lines().map(read).collect()
    }

    /// Asks it to stop, as a supervisor does, and waits for it: all that it wrote.
    pub async fn stop(mut self) -> String {
        let pid = self.running.0.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.unwrap().success());
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.running.0.wait().unwrap();
            (status, self)
        });
        let (status, logged) = ended.await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", logged.log());
        logged.log()
    }
}

fn free_address() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    port.local_addr().unwrap().to_string()
}
