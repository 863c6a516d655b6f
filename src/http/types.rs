//! The shapes of JSON, as clients see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::domain::files;

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
