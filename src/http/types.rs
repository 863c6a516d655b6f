//! The shapes of JSON, as clients see them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::domain::audit;
use crate::domain::imports::{self, OnDuplicate};
use crate::domain::{files, uploads, versions};
use crate::error::{Error, Result};
use crate::objects::StoredPart;

use super::signed::SignedUrl;

/// A file.
#[derive(Serialize, ToSchema)]
pub struct File {
    /// A UUIDv7.
    #[schema(format = "uuid")]
    pub id: String,
    /// 1 to 1,024 bytes; `/` makes folders. Not unique.
    #[schema(example = "reports/2026/q3.pdf")]
    pub name: String,
    #[schema(example = "application/pdf")]
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    /// In lower-case hexadecimal digits; null until the service has hashed the bytes.
    pub sha256: Option<String>,
    /// The caller's own JSON, at most 64 KiB.
    #[schema(value_type = Object)]
    pub metadata: files::Metadata,
    /// Counts the contents, from 1.
    pub version: i64,
    /// Counts every change, from 1; it is the JSON's `ETag`.
    pub revision: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When the file is removed by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Since when it is in the trash.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub trashed_at: Option<Timestamp>,
    /// The subject of the token that it was uploaded with.
    pub created_by: String,
    /// Until then it can be neither deleted nor replaced.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retention_until: Option<Timestamp>,
    /// Whether it can be neither deleted nor replaced until that is lifted.
    pub legal_hold: bool,
}

impl From<files::File> for File {
    fn from(file: files::File) -> Self {
        Self {
            id: file.id.to_string(),
            name: file.name,
            content_type: file.content_type,
            size: file.size,
            sha256: file.sha256.map(hex::encode),
            metadata: file.metadata,
            version: file.version,
            revision: file.revision,
            created_at: file.created_at,
            updated_at: file.updated_at,
            expires_at: file.expires_at,
            trashed_at: file.trashed_at,
            created_by: file.created_by,
            retention_until: file.retention_until,
            legal_hold: file.legal_hold,
        }
    }
}

/// One page of a list.
#[derive(Serialize, ToSchema)]
pub struct FilePage {
    pub items: Vec<File>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
    /// With a `delimiter`: the folders among the items, as prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["a/b/"]))]
    pub prefixes: Option<Vec<String>>,
}

/// A change of a file's properties. What is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilePatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String, required = false)]
    pub name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = String, required = false)]
    pub content_type: Option<Option<String>>,
    /// Merged into what is there, at every depth; null removes all of it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Option<files::Metadata>>,
    /// Must lie in the future; null: never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
    /// Must lie in the future; null: not at all. While one is in force, only `admin` has it end sooner.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retention_until: Option<Option<Timestamp>>,
    /// Only `admin` sets it back to false.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = bool, required = false)]
    pub legal_hold: Option<Option<bool>>,
}

/// What is different in a copy. What is absent is as in the source.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCopy {
    #[serde(default)]
    pub name: Option<String>,
    /// In place of the source's; null: none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Option<files::Metadata>>,
    /// Must lie in the future; null: never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
}

/// A link that is to be made: to one of `url` and `file_id`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLink {
    /// 1 to 128 of `A-Z a-z 0-9 - _ .`, with `/` between; absent: one is made.
    #[serde(default)]
    #[schema(example = "q3/report")]
    pub slug: Option<String>,
    /// http or https, without credentials.
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    #[schema(format = "uuid")]
    pub file_id: Option<String>,
    /// Must lie in the future.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// How often it can be used.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_uses: Option<i64>,
    /// 1 to 256 bytes.
    #[serde(default)]
    #[schema(format = Password)]
    pub password: Option<String>,
    /// Of a file's content; only content types that can run nothing are ever inline.
    #[serde(default)]
    pub disposition: Option<super::disposition::Disposition>,
}

/// A change of a link. What is absent stays as it is; null removes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkPatch {
    /// In place of a file, where there was one.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub url: Option<Option<String>>,
    /// In place of a URL, where there was one.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub file_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
    /// The uses so far count.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub max_uses: Option<Option<i64>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = Password)]
    pub password: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<super::disposition::Disposition>)]
    pub disposition: Option<Option<super::disposition::Disposition>>,
    /// A disabled link answers 410.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// A slug that leads to a file or to an external URL.
#[derive(Serialize, ToSchema)]
pub struct Link {
    #[schema(example = "q3/report")]
    pub slug: String,
    /// One of the two.
    pub url: Option<String>,
    pub file_id: Option<String>,
    /// What to hand out.
    #[schema(example = "https://files.example.com/l/q3/report")]
    pub link_url: String,
    /// `active`, `expired`, `spent` or `disabled`.
    #[schema(example = "active")]
    pub state: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    pub max_uses: Option<i64>,
    /// Exact where there is `max_uses`; else up to a second behind.
    pub uses: i64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    pub has_password: bool,
    /// `inline` or `attachment`.
    pub disposition: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Links that are to be made.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body whose items are read one by one")]
pub struct NewLinks {
    #[schema(min_items = 1, max_items = 10_000)]
    items: Vec<NewLink>,
}

/// What became of each of many links.
#[derive(Serialize, ToSchema)]
pub struct LinksMade {
    pub items: Vec<LinkMade>,
}

/// What became of one of them.
#[derive(Serialize, ToSchema)]
pub struct LinkMade {
    /// Counts from 0, as they were sent.
    pub index: usize,
    /// 201: it is made; 409: its slug is taken; 422: it is not valid; 503: try again.
    #[schema(example = 201)]
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// The problem's type, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "urn:box-service:problem:conflict")]
    pub r#type: Option<String>,
    /// What is wrong with which part of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<super::problem::InvalidPart>,
}

/// One page of links, by their slugs.
#[derive(Serialize, ToSchema)]
pub struct LinkPage {
    pub items: Vec<Link>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// What the page that asks for a link's password sends.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a form")]
pub struct LinkForm {
    #[schema(format = Password)]
    password: String,
}

/// Tells null, which is Some(None), from what is absent.
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// Files to delete.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchDelete {
    #[schema(min_items = 1, max_items = 1000)]
    pub ids: Vec<String>,
    /// For good rather than to the trash.
    #[serde(default)]
    pub permanent: bool,
}

/// What became of each of many files.
#[derive(Serialize, ToSchema)]
pub struct BatchDeleted {
    pub items: Vec<Deleted>,
}

#[derive(Serialize, ToSchema)]
pub struct Deleted {
    pub id: String,
    /// 204: it is deleted; 404: there was none; 409: it is held.
    #[schema(example = 204)]
    pub status: u16,
    /// The problem's type, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "urn:box-service:problem:not-found")]
    pub r#type: Option<String>,
}

/// One content of a file.
#[derive(Serialize, ToSchema)]
pub struct Version {
    /// Counts from 1.
    pub version: i64,
    /// In bytes.
    pub size: u64,
    /// In lower-case hexadecimal digits; null until the service has hashed the bytes.
    pub sha256: Option<String>,
    pub content_type: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The subject of the token that it was sent with.
    pub created_by: String,
    /// Whether it is the file's content now.
    pub current: bool,
}

impl From<versions::Listed> for Version {
    fn from(listed: versions::Listed) -> Self {
        Self {
            version: listed.version,
            size: listed.content.size,
            sha256: listed.content.sha256.map(hex::encode),
            content_type: listed.content.content_type,
            created_at: listed.content.created_at,
            created_by: listed.created_by,
            current: listed.current,
        }
    }
}

/// One page of a file's contents, the newest first.
#[derive(Serialize, ToSchema)]
pub struct VersionPage {
    pub items: Vec<Version>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// A direct upload that is to begin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUpload {
    /// Of the file that it is to become: 1 to 1,024 bytes.
    #[schema(example = "reports/2026/q3.pdf")]
    pub name: String,
    /// In bytes, exactly.
    pub size: u64,
    /// Else the first bytes decide.
    #[serde(default)]
    pub content_type: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<files::Metadata>,
    /// Of the file; must lie in the future.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// What the bytes must hash to, in hexadecimal digits. Not for what comes in parts by its size.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The CRC-64/NVME of all bytes, in Base64, as S3 has it.
    #[serde(default)]
    #[schema(example = "rosUhgp5mIg=")]
    pub crc64nvme: Option<String>,
}

/// The parts that URLs are wanted for, by their numbers from 1: up to 1,000.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedParts {
    #[schema(minimum = 1)]
    pub from: u32,
    /// Included.
    #[schema(minimum = 1)]
    pub to: u32,
}

/// A URL for one part of an upload.
#[derive(Serialize, ToSchema)]
pub struct PartUrl {
    pub number: u32,
    #[serde(flatten)]
    pub url: SignedUrl,
}

#[derive(Serialize, ToSchema)]
pub struct PartUrls {
    pub items: Vec<PartUrl>,
}

/// What a direct upload is made of.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteUpload {
    /// All parts, in order. Left out: those that are there.
    #[serde(default)]
    pub parts: Option<Vec<SentPart>>,
}

/// A part that was sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SentPart {
    #[schema(minimum = 1)]
    pub number: u32,
    /// What its PUT was answered with.
    pub etag: String,
}

/// A part that is there.
#[derive(Serialize, ToSchema)]
pub struct UploadPart {
    pub number: u32,
    /// In bytes.
    pub size: u64,
    pub etag: String,
}

/// An upload in progress.
#[derive(Serialize, ToSchema)]
pub struct Upload {
    /// A UUIDv7.
    #[schema(format = "uuid")]
    pub id: String,
    /// Of the file that it is to become.
    pub name: String,
    /// In bytes; null until it is known.
    pub size: Option<u64>,
    /// `single`, `multipart` or `tus`.
    #[schema(example = "multipart")]
    pub strategy: &'static str,
    /// In bytes: of every part but the last, which has what is left. Null where it comes in none.
    pub part_size: Option<u64>,
    /// Bytes that have come.
    pub offset: u64,
    /// Until when it waits for more.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Where all bytes come in one request, in the answer to the upload's creation: that request.
    pub put: Option<SignedUrl>,
    /// Of one that was asked for by its id: the parts that are there.
    pub parts: Vec<UploadPart>,
}

impl From<uploads::Upload> for Upload {
    fn from(upload: uploads::Upload) -> Self {
        Self {
            id: upload.id.to_string(),
            name: upload.name,
            size: upload.size,
            strategy: upload.strategy.as_str(),
            part_size: upload.part_size,
            offset: upload.received,
            expires_at: upload.expires_at,
            put: None,
            parts: Vec::new(),
        }
    }
}

impl Upload {
    /// With the parts that are there. Of what comes straight to the store, nothing else is known.
    pub fn with_parts(self, parts: Vec<StoredPart>) -> Self {
        let came = parts.iter().map(|part| part.size).sum::<u64>();
        let parts = parts.into_iter().map(|part| UploadPart {
            number: part.number,
            size: part.size,
            etag: part.etag,
        });
        Self {
            offset: self.offset.max(came),
            parts: parts.collect(),
            ..self
        }
    }
}

/// One page of uploads in progress.
#[derive(Serialize, ToSchema)]
pub struct UploadPage {
    pub items: Vec<Upload>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// What a tenant keeps: its files, with the trash, earlier versions and copies.
#[derive(Serialize, ToSchema)]
pub struct Usage {
    pub bytes: i64,
    pub files: i64,
    /// Null: no limit.
    pub max_bytes: Option<u64>,
    pub max_files: Option<u64>,
}

/// What a form says of its file, in the part `properties`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    /// Else the part's `filename`.
    #[serde(default)]
    pub name: Option<String>,
    /// Else the part's `Content-Type`; else the first bytes decide.
    #[serde(default)]
    pub content_type: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<files::Metadata>,
    /// Must lie in the future.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Until when it can be neither deleted nor replaced. Must lie in the future.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retention_until: Option<Timestamp>,
    /// `true`: it can be neither deleted nor replaced until that is lifted.
    #[serde(default)]
    pub legal_hold: Option<bool>,
    /// What the bytes must hash to, in hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// The form of an upload by `multipart/form-data`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body that is read as a stream")]
pub struct UploadForm {
    /// Comes first, if at all.
    properties: Option<Properties>,
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: String,
}

/// Bytes, as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes a body that is a stream")]
pub struct Bytes(Vec<u8>);

/// URLs to fetch.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body that is read as a stream")]
pub struct NewImport {
    #[schema(min_items = 1)]
    items: Vec<NewImportItem>,
    options: Option<WantedOptions>,
}

/// A URL to fetch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewImportItem {
    /// http or https, without credentials.
    #[schema(example = "https://example.com/a.pdf")]
    pub url: String,
    /// The file's; else the origin's, or that of the URL's path.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<files::Metadata>,
    /// What must come, in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// What it must hash to, in hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<String>,
    #[serde(default)]
    pub md5: Option<String>,
    /// What the origin is sent, and nobody that it redirects to: `accept`, `accept-language`,
    /// `authorization`, `cookie`, `origin`, `referer`, `user-agent`, `x-api-key`.
    #[serde(default)]
    pub headers: Option<BTreeMap<String, String>>,
}

/// How items are to be fetched. What is absent is as configured.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedOptions {
    /// Items at the same time.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub concurrency: Option<u32>,
    /// Of them, from one host.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub per_host: Option<u32>,
    /// How often an item is tried whose failure may pass.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub attempts: Option<u32>,
    /// For a whole attempt.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub timeout_s: Option<u64>,
    /// `skip`: an item whose URL an earlier one has is cancelled.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "skip")]
    pub on_duplicate: Option<OnDuplicate>,
    /// As `image/png` or `image/*`; an item with another type fails.
    #[serde(default)]
    pub allow_content_types: Option<Vec<String>>,
}

impl From<WantedOptions> for imports::Wanted {
    fn from(wanted: WantedOptions) -> Self {
        Self {
            concurrency: wanted.concurrency,
            per_host: wanted.per_host,
            attempts: wanted.attempts,
            timeout_s: wanted.timeout_s,
            on_duplicate: wanted.on_duplicate,
            allow_content_types: wanted.allow_content_types,
        }
    }
}

/// What would become of an import.
#[derive(Default, Serialize, ToSchema)]
pub struct DryRun {
    pub total: u64,
    /// Items that could be fetched.
    pub valid: u64,
    /// The first thousand.
    pub errors: Vec<ItemError>,
}

/// What is wrong with an item.
#[derive(Serialize, ToSchema)]
pub struct ItemError {
    /// Counts from 0.
    pub index: u64,
    /// A JSON pointer (RFC 6901) into the item.
    #[schema(example = "/url")]
    pub pointer: String,
    pub detail: String,
}

/// URLs that are fetched, one by one.
#[derive(Serialize, ToSchema)]
pub struct Import {
    #[schema(format = "uuid")]
    pub id: String,
    /// `running`; `done` once nothing is left to do, failed items included; `cancelled`.
    #[schema(example = "running")]
    pub state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    pub counts: ImportCounts,
    /// Of the files that were made.
    pub bytes_done: i64,
    pub options: ImportOptions,
}

/// How many items are in each state.
#[derive(Serialize, ToSchema)]
pub struct ImportCounts {
    pub total: i64,
    pub pending: i64,
    pub fetching: i64,
    pub done: i64,
    pub failed: i64,
    pub cancelled: i64,
}

/// How the items of an import are fetched.
#[derive(Serialize, ToSchema)]
pub struct ImportOptions {
    pub concurrency: u32,
    pub per_host: u32,
    pub attempts: u32,
    pub timeout_s: u64,
    /// `keep` or `skip`.
    #[schema(value_type = String, example = "keep")]
    pub on_duplicate: OnDuplicate,
    pub allow_content_types: Vec<String>,
}

impl TryFrom<imports::Import> for Import {
    type Error = Error;

    fn try_from(import: imports::Import) -> Result<Self> {
        let options = imports::Options::read(&import.options)?;
        let counts = import.counts;
        Ok(Self {
            id: import.id.to_string(),
            state: import.state.as_str(),
            created_at: import.created_at,
            finished_at: import.finished_at,
            counts: ImportCounts {
                total: counts.total(),
                pending: counts.pending,
                fetching: counts.fetching,
                done: counts.done,
                failed: counts.failed,
                cancelled: counts.cancelled,
            },
            bytes_done: counts.bytes,
            options: ImportOptions {
                concurrency: options.concurrency,
                per_host: options.per_host,
                attempts: options.attempts,
                timeout_s: options.timeout_s,
                on_duplicate: options.on_duplicate,
                allow_content_types: options.allow_content_types,
            },
        })
    }
}

/// One server-sent event.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a stream")]
pub struct ImportEvent {
    /// The count of items that have ended.
    #[schema(example = "7")]
    id: String,
    /// `progress` or `done`.
    #[schema(example = "progress")]
    event: String,
    /// The Import, as JSON.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// One page of imports, the newest first.
#[derive(Serialize, ToSchema)]
pub struct ImportPage {
    pub items: Vec<Import>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// What became of a URL.
#[derive(Serialize, ToSchema)]
pub struct ImportItem {
    /// Counts from 0, as the items were sent.
    pub index: i64,
    pub url: String,
    /// `pending`, `fetching`, `done`, `failed` or `cancelled`.
    #[schema(example = "done")]
    pub state: &'static str,
    /// How often it was tried, or is being tried.
    pub attempts: i64,
    /// Of the last answer.
    pub http_status: Option<i64>,
    /// Of the last attempt that failed.
    pub error: Option<ImportItemError>,
    pub file_id: Option<String>,
    /// Of the file that was made.
    pub bytes: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub struct ImportItemError {
    /// Stable: a client can switch on it.
    #[schema(example = "http-status")]
    pub r#type: String,
    pub detail: String,
}

impl From<imports::Item> for ImportItem {
    fn from(item: imports::Item) -> Self {
        Self {
            index: item.number,
            url: item.url,
            state: item.state.as_str(),
            attempts: item.attempts,
            http_status: item.http_status,
            error: item.error_type.map(|r#type| ImportItemError {
                r#type,
                detail: item.error_detail.unwrap_or_default(),
            }),
            file_id: item.file_id.map(|id| id.to_string()),
            bytes: item.bytes,
        }
    }
}

/// One page of an import's items, in the order in which they were sent.
#[derive(Serialize, ToSchema)]
pub struct ImportItemPage {
    pub items: Vec<ImportItem>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// What happened.
#[derive(Serialize, ToSchema)]
pub struct AuditEvent {
    /// Its place in the chain of the tenant, from 1.
    pub seq: i64,
    pub id: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who did it; `box-service`: the service itself.
    pub subject: String,
    #[schema(example = "file.created")]
    pub action: String,
    /// The id of what it was done to; for `access.refused` the route.
    pub target: String,
    pub request_id: Option<String>,
    pub remote_ip: Option<String>,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
}

impl TryFrom<audit::Stored> for AuditEvent {
    type Error = Error;

    fn try_from(event: audit::Stored) -> Result<Self> {
        let (seq, _) = event
            .place
            .ok_or_else(|| Error::internal("an event without a place was to be shown"))?;
        Ok(Self {
            seq,
            id: event.id.to_string(),
            at: event.at,
            subject: event.subject,
            action: event.action,
            target: event.target,
            request_id: event.request_id,
            remote_ip: event.remote_ip,
            detail: serde_json::from_str(&event.detail).map_err(Error::internal)?,
        })
    }
}

/// One page of events, in the order in which they were sealed.
#[derive(Serialize, ToSchema)]
pub struct AuditEventPage {
    pub items: Vec<AuditEvent>,
    /// What to send as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}
