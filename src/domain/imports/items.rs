//! One item: fetched into an object, and ended in the transaction that makes its file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use md5::{Digest, Md5};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::fetch::{self, Failure, Transfer};
use crate::id::FileId;
use crate::metadata::imports::{Claimed, Ended, Held, ItemState, State};
use crate::metrics::Active;

use super::super::content::{Planned, Written};
use super::super::files::{File, Sniff, UNNAMED, matches_declared};
use super::super::properties::{NAME_BYTES, name_fault};
use super::super::{Caller, Domain};
use super::Options;
use super::ends::Ending;

/// An item that has brought more than this waits for one of the few places that large ones have:
/// what is held in memory for each grows with its speed.
const LARGE: u64 = 128 * 1024;

/// Between two attempts: doubled each time, and by chance up to half longer or shorter.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often an item may lose the process that has it beyond the attempts it has: it may be what
/// ends them.
const LOST: i64 = 3;

/// A claimed item, and how it is to be fetched.
#[derive(Clone, Debug)]
pub struct Work {
    pub item: Claimed,
    pub options: Arc<Options>,
    /// In whose name its file is made.
    pub caller: Caller,
}

/// Why an attempt came to nothing.
#[derive(Clone, Debug)]
struct Trouble {
    name: &'static str,
    detail: String,
    status: Option<u16>,
    retry: bool,
    retry_after: Option<Duration>,
}

/// How an attempt ended that made no file.
enum Outcome {
    Trouble(Trouble),
    /// It was told to stop, or its item is somebody else's by now.
    GivenUp,
}

impl Trouble {
    fn new(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            detail: detail.into(),
            status: None,
            retry: false,
            retry_after: None,
        }
    }

    fn too_large(most: u64) -> Self {
        Self::new("too-large", format!("there are more than {most} bytes"))
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Trouble(failure.into())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self {
            name: failure.fault.as_str(),
            detail: failure.detail,
            status: failure.status,
            retry: failure.retry,
            retry_after: failure.retry_after,
        }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        let detail = error.detail().to_owned();
        Self::Trouble(match error.kind() {
            Kind::QuotaExceeded => Trouble::new("quota", detail),
            Kind::PayloadTooLarge => Trouble::new("too-large", detail),
            Kind::ChecksumMismatch => Trouble::new("checksum-mismatch", detail),
            Kind::UnsupportedMediaType => Trouble::new("content-type", detail),
            // The bytes are the only part of it that is checked here.
            Kind::InvalidRequest => {
                let part = error.invalid_parts().first();
                Trouble::new(
                    "size-mismatch",
                    part.map_or(detail, |part| part.detail.clone()),
                )
            }
            _ => {
                tracing::warn!(%error, "an item could not be stored");
                Trouble {
                    retry: true,
                    ..Trouble::new("storage", detail)
                }
            }
        })
    }
}

impl Domain {
    /// Fetches a claimed item and ends it, or lets it be claimed again later. `place` is let go once the
    /// last byte has come; `large` has places for items that bring many.
    ///
    /// Stopped, it is left as if it had not been claimed. Must run to its end.
    pub async fn import_item<P: Send + 'static>(
        &self,
        work: &Work,
        sniff: Sniff,
        place: P,
        large: Arc<Semaphore>,
        stop: CancellationToken,
    ) {
        let _active = Active::count(&self.metrics.imports.active);
        let held = &work.item.held;
        let ended = match self.item_store(work, sniff, place, large, stop).await {
            Ok(()) => return,
            Err(Outcome::Trouble(trouble)) => self.item_failed(work, trouble).await,
            Err(Outcome::GivenUp) => {
                let now = self.clock.now();
                let failures = work.item.failures;
                self.item_end(held, ItemState::Pending, failures, now, Ended::default())
                    .await
            }
        };
        if let Err(error) = ended {
            // Its lease runs out.
            tracing::warn!(import = %held.import, number = held.number, %error, "an item could not be ended");
        }
    }

    async fn item_store<P: Send + 'static>(
        &self,
        work: &Work,
        sniff: Sniff,
        place: P,
        large: Arc<Semaphore>,
        stop: CancellationToken,
    ) -> Result<(), Outcome> {
        let item = &work.item;
        let url = Url::parse(&item.url)
            .map_err(|error| Outcome::Trouble(Trouble::new("bad-url", error.to_string())))?;
        let request = fetch::Request {
            headers: headers(item.headers.as_deref()),
            url: url.clone(),
            deadline: Instant::now() + Duration::from_secs(work.options.timeout_s),
        };
        let transfer = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Outcome::GivenUp),
            transfer = self.fetcher.get(request) => transfer?,
        };
        let most = self.import_file_bytes();
        match (item.size, transfer.length) {
            (Some(declared), Some(length)) if declared != length => {
                let detail = format!("{declared} bytes were declared and {length} are announced");
                return Err(Outcome::Trouble(Trouble::new("size-mismatch", detail)));
            }
            (_, Some(length)) if length > most => {
                return Err(Outcome::Trouble(Trouble::too_large(most)));
            }
            _ => {}
        }
        let name = name(item.name.clone(), &transfer, &url);
        let (status, length) = (transfer.status, transfer.length);
        let came = Came::default();
        let md5 = item.md5.is_some().then(Md5::new);
        let source = came
            .clone()
            .stream(transfer.body, most, md5, place, large, stop);
        let outcome = self
            .item_write(work, sniff, name, status, length, &came, source)
            .await;
        // What broke the body off is known better there than by who read it.
        match (outcome, came.take_end()) {
            (Err(_), Some(End::Trouble(trouble))) => Err(Outcome::Trouble(trouble)),
            (Err(_), Some(End::Stopped)) => Err(Outcome::GivenUp),
            (outcome, _) => outcome,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what is known of one answer")]
    async fn item_write(
        &self,
        work: &Work,
        sniff: Sniff,
        name: String,
        status: u16,
        length: Option<u64>,
        came: &Came,
        source: BoxStream<'static, Result<Bytes>>,
    ) -> Result<(), Outcome> {
        let item = &work.item;
        let planned = Planned {
            tenant: &item.held.tenant,
            declared: item.size.or(length),
            files: 1,
            claim: None,
        };
        let intended = self
            .content_intend(planned)
            .await?
            .ok_or_else(|| Error::internal("an item without a key lost it"))?;
        let sniffed = self.sniffed(None, &name, source, sniff).await;
        let (source, content_type) = match sniffed {
            Ok((source, content_type)) if work.options.allows(&content_type) => {
                (source, content_type)
            }
            refused => {
                self.intended_abandon(intended).await;
                let (_, content_type) = refused?;
                let detail =
                    format!("the bytes are {content_type}, which the import does not allow");
                return Err(Outcome::Trouble(Trouble::new("content-type", detail)));
            }
        };
        let written = self.content_write(intended, source).await?;
        if let Err(error) = self.item_matches(work, &written, came) {
            self.written_abandon(written).await;
            return Err(error.into());
        }
        match self
            .item_done(work, name, content_type, status, &written)
            .await
        {
            Ok(true) => {
                self.metrics.imports.done.inc();
                self.metrics.imports.bytes.inc_by(written.size);
                Ok(())
            }
            Ok(false) => {
                self.written_abandon(written).await;
                Err(Outcome::GivenUp)
            }
            Err(error) => {
                self.written_abandon(written).await;
                Err(error.into())
            }
        }
    }

    fn item_matches(&self, work: &Work, written: &Written, came: &Came) -> Result<()> {
        let declared = work.item.sha256.as_ref().and_then(|digits| {
            let mut sha256 = [0; 32];
            hex::decode_to_slice(digits, &mut sha256).ok()?;
            Some(sha256)
        });
        matches_declared(work.item.size, declared, written)?;
        let Some(declared) = &work.item.md5 else {
            return Ok(());
        };
        match came.md5() {
            Some(md5) if md5 != *declared => Err(Error::new(
                Kind::ChecksumMismatch,
                format!("The bytes that came have the MD5 {md5}."),
            )),
            _ => Ok(()),
        }
    }

    /// Makes the file and ends the item, or nothing. False when the item is not held any more.
    async fn item_done(
        &self,
        work: &Work,
        name: String,
        content_type: String,
        status: u16,
        written: &Written,
    ) -> Result<bool> {
        let now = self.clock.now();
        let item = &work.item;
        let file = File {
            id: FileId::new(now),
            tenant: item.held.tenant.clone(),
            name,
            content_type,
            size: written.size,
            sha256: Some(written.sha256),
            metadata: item.metadata.clone(),
            version: 1,
            revision: 1,
            object_id: written.id,
            created_at: now,
            updated_at: now,
            expires_at: None,
            trashed_at: None,
            created_by: work.caller.subject.clone(),
            content_at: None,
            content_by: None,
            retention_until: None,
            legal_hold: false,
        };
        let detail = json!({"import": item.held.import, "item": item.held.number});
        let event = self.event(&work.caller, "file.created", file.id, detail);
        self.item_end_with(Ending {
            held: item.held.clone(),
            status,
            file,
            event,
            sha256: written.sha256,
            settled: written.settled,
            unreserved: written.unreserved,
        })
        .await
    }

    async fn item_failed(&self, work: &Work, trouble: Trouble) -> Result<()> {
        let item = &work.item;
        let failures = item.failures + 1;
        let again = trouble.retry && failures < i64::from(work.options.attempts);
        let to = if again {
            ItemState::Pending
        } else {
            ItemState::Failed
        };
        self.metrics.imports.error(trouble.name);
        let wait = pause(failures).max(trouble.retry_after.unwrap_or_default());
        let not_before = self.clock.now().plus(wait);
        let ended = Ended {
            http_status: trouble.status,
            error: Some((trouble.name, trouble.detail)),
        };
        self.item_end(&item.held, to, failures, not_before, ended)
            .await
    }

    async fn item_end(
        &self,
        held: &Held,
        to: ItemState,
        failures: i64,
        not_before: crate::clock::Timestamp,
        ended: Ended,
    ) -> Result<()> {
        let retried = to == ItemState::Pending && ended.error.is_some();
        let reached = self
            .metadata
            .write((held.clone(), ended), move |tx, (held, ended)| {
                async move {
                    let mut to = to;
                    if to == ItemState::Pending {
                        // An import that was cancelled gets nothing to do any more.
                        let locked = tx.import_lock(&held.tenant, held.import).await?;
                        if !matches!(locked, Some((State::Running, _))) {
                            to = ItemState::Cancelled;
                        }
                    }
                    let ours = tx
                        .import_item_end(held, to, failures, not_before, ended)
                        .await?;
                    Ok(ours.then_some(to))
                }
                .boxed()
            })
            .await?;
        let metrics = &self.metrics.imports;
        match reached {
            Some(ItemState::Pending) if retried => _ = metrics.retries.inc(),
            Some(ItemState::Failed) => _ = metrics.failed.inc(),
            Some(ItemState::Cancelled) => _ = metrics.cancelled.inc(),
            _ => {}
        }
        Ok(())
    }

    /// Lets items be claimed again whose process is gone; how many.
    pub async fn import_take_up(&self) -> Result<usize> {
        const AT_ONCE: u32 = 100;
        let mut taken = 0;
        loop {
            let now = self.clock.now();
            let mut reader = self.metadata.reader().await?;
            let expired = reader.conn().import_expired(now, AT_ONCE).await?;
            drop(reader);
            let found = expired.len();
            for (held, failures) in expired {
                self.item_lost(held, failures + 1).await?;
            }
            taken += found;
            if found < AT_ONCE as usize {
                return Ok(taken);
            }
        }
    }

    async fn item_lost(&self, held: Held, failures: i64) -> Result<()> {
        let mut reader = self.metadata.reader().await?;
        let import = reader.conn().import_get(&held.tenant, held.import).await?;
        drop(reader);
        let attempts = match import {
            Some(import) => i64::from(Options::read(&import.options)?.attempts),
            None => 0,
        };
        let (to, error) = if failures < attempts + LOST {
            (ItemState::Pending, None)
        } else {
            let detail = "the process that fetched it was lost, again and again".to_owned();
            (ItemState::Failed, Some(("storage", detail)))
        };
        let ended = Ended {
            error,
            ..Ended::default()
        };
        self.item_end(&held, to, failures, self.clock.now(), ended)
            .await
    }
}

/// What has come of a body, for who waits for its end.
#[derive(Clone, Default)]
struct Came(Arc<Mutex<Arrived>>);

#[derive(Default)]
struct Arrived {
    end: Option<End>,
    /// Of all bytes, in hexadecimal digits.
    md5: Option<String>,
    /// Until the writer is done, which holds the last of them when the last one has come.
    among_large: Option<OwnedSemaphorePermit>,
}

/// Why a body broke off.
enum End {
    Trouble(Trouble),
    Stopped,
}

impl Came {
    fn set(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take_end(&self) -> Option<End> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end
            .take()
    }

    fn md5(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .md5
            .clone()
    }

    fn broken(&self, end: End) -> Error {
        self.set(|arrived| arrived.end = Some(end));
        Error::unavailable("the body broke off")
    }

    /// The body, as far as it may come.
    fn stream<P: Send + 'static>(
        self,
        mut body: fetch::ByteStream,
        most: u64,
        mut md5: Option<Md5>,
        place: P,
        large: Arc<Semaphore>,
        stop: CancellationToken,
    ) -> BoxStream<'static, Result<Bytes>> {
        async_stream::try_stream! {
            let mut size = 0;
            let mut among_large = false;
            loop {
                let next = async {
                    if size > LARGE && !among_large {
                        among_large = true;
                        // It is never closed.
                        let permit = large.clone().acquire_owned().await.ok();
                        self.set(|arrived| arrived.among_large = permit);
                    }
                    body.next().await
                };
                let chunk = tokio::select! {
                    biased;
                    () = stop.cancelled() => Err(self.broken(End::Stopped)),
                    chunk = next => match chunk {
                        None => break,
                        Some(Ok(chunk)) => Ok(chunk),
                        Some(Err(failure)) => Err(self.broken(End::Trouble(failure.into()))),
                    },
                }?;
                size += chunk.len() as u64;
                if size > most {
                    Err(self.broken(End::Trouble(Trouble::too_large(most))))?;
                }
                if let Some(md5) = &mut md5 {
                    md5.update(&chunk);
                }
                yield chunk;
            }
            // The next item may be asked for while this one is made durable.
            drop((body, place));
            if let Some(md5) = md5 {
                self.set(|arrived| arrived.md5 = Some(hex::encode(md5.finalize())));
            }
        }
        .boxed()
    }
}

/// The name of an item's file: its own, the origin's, or that of the URL.
fn name(own: Option<String>, transfer: &Transfer, url: &Url) -> String {
    let sound = |name: &String| name_fault(name).is_none();
    own.or_else(|| transfer.name.as_deref().map(tidy).filter(sound))
        .or_else(|| fetch::name_of_url(url).as_deref().map(tidy).filter(sound))
        .unwrap_or_else(|| UNNAMED.to_owned())
}

/// A name that somebody else has chosen, as one that a file may have.
fn tidy(name: &str) -> String {
    let mut tidy: String = name.chars().filter(|c| !c.is_control()).collect();
    let mut end = tidy.len().min(NAME_BYTES);
    while !tidy.is_char_boundary(end) {
        end -= 1;
    }
    tidy.truncate(end);
    tidy
}

fn headers(json: Option<&str>) -> HeaderMap {
    let named: std::collections::BTreeMap<String, String> = json
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        // Both were checked when they came.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers
}

fn pause(failures: i64) -> Duration {
    let doubled = u32::try_from(failures.clamp(1, 16) - 1).unwrap_or(0);
    let pause = (FIRST_PAUSE * (1 << doubled)).min(LONGEST_PAUSE);
    pause.mul_f64(rand::random_range(0.5..1.5))
}
