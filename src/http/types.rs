//! The shapes of JSON, as clients see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::domain::{files, versions};

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
    /// 204: it is deleted; 404: there was none.
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
