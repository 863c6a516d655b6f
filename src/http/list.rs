//! `GET /v1/files`: list and search.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock::Timestamp;
use crate::domain::files::{
    After, ContentTypes, File, Filter, Metadata, Page, Sort, SortBy, SortKey, What,
};
use crate::domain::properties::{metadata_fault, text_fault};
use crate::error::{Error, Result};
use crate::id::{FileId, Tenant};

use super::extract::{self, Query};
use super::guard::Who;
use super::{digest, media_type, types};

/// Items of a page, unless the query says otherwise, and at most.
const LIMIT: u32 = 100;
const MOST: u32 = 1000;

/// The values in a `metadata` filter: each is a look into every candidate's metadata.
const FILTER_VALUES: usize = 100;

/// The parameters that choose files; the others choose a part of the list.
const FILTERS: [&str; 10] = [
    "prefix",
    "name",
    "content_type",
    "metadata",
    "min_size",
    "max_size",
    "created_after",
    "created_before",
    "sha256",
    "trashed",
];

/// List and search files
///
/// All filters must hold. By keyset pages: files that come and go meanwhile make no other file come
/// twice or be left out.
#[utoipa::path(
    get, path = "/v1/files", tag = "files",
    params(
        ("prefix" = Option<String>, Query, description = "The first bytes of the name"),
        ("delimiter" = Option<String>, Query, description = "`/`: only what lies directly below the prefix; what lies deeper shows as one of `prefixes`. Goes with `sort=name` and `sort=-name`"),
        ("name" = Option<String>, Query, description = "The whole name"),
        ("content_type" = Option<String>, Query, description = "The whole content type, or all of a kind as `image/*`"),
        ("metadata" = Option<String>, Query, description = "A JSON object that the metadata must contain, as PostgreSQL's `@>` understands it"),
        ("min_size" = Option<u64>, Query, description = "In bytes, inclusive"),
        ("max_size" = Option<u64>, Query, description = "In bytes, inclusive"),
        ("created_after" = Option<String>, Query, description = "RFC 3339, inclusive"),
        ("created_before" = Option<String>, Query, description = "RFC 3339, exclusive"),
        ("sha256" = Option<String>, Query, description = "64 hexadecimal digits"),
        ("trashed" = Option<bool>, Query, description = "`true`: only what is in the trash; else only what is not"),
        ("sort" = Option<String>, Query, description = "`created_at`, `updated_at`, `name` or `size`; `-` before it for descending; by default `-created_at`, and `name` with a delimiter"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, and prefixes; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same `sort`"),
    ),
    responses((status = 200, description = "A page of files", body = types::FilePage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
) -> Result<Json<types::FilePage>> {
    let asked = Asked::read(&uri, principal.tenant.clone(), app.domain.clock.now())?;
    let Asked {
        filter,
        folders,
        sort,
        after,
        limit,
    } = asked;
    if folders {
        return folder(&app, &filter, sort, after, limit).await;
    }
    let page = Page {
        sort,
        after,
        // One more tells whether there is another page.
        limit: limit + 1,
    };
    let mut files = app.domain.file_list(&filter, &page).await?;
    let more = files.len() > limit as usize;
    files.truncate(limit as usize);
    let next_cursor = files
        .last()
        .filter(|_| more)
        .map(|last| Cursor::behind(after_file(last, sort.by), sort));
    Ok(Json(types::FilePage {
        items: files.into_iter().map(types::File::from).collect(),
        next_cursor,
        prefixes: None,
    }))
}

/// What a query asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub filter: Filter,
    /// Whether what lies deeper shows as its folder.
    pub folders: bool,
    pub sort: Sort,
    pub after: Option<After>,
    pub limit: u32,
}

impl Asked {
    /// # Errors
    /// 422 for what the parameters' descriptions don't allow.
    pub(super) fn read(uri: &Uri, tenant: Tenant, now: Timestamp) -> Result<Self> {
        let known = [
            FILTERS.as_slice(),
            &["delimiter", "sort", "limit", "cursor"],
        ]
        .concat();
        let mut query = Query::read(uri, &known)?;
        let filter = filter(&mut query, tenant, now)?;
        let folders = query
            .parse("delimiter", "/", |text| (text == "/").then_some(()))?
            .is_some();
        let sort = query.parse(
            "sort",
            "created_at, updated_at, name or size, or - and one of them",
            read_sort,
        )?;
        let sort = sort.unwrap_or(Sort {
            by: if folders {
                SortBy::Name
            } else {
                SortBy::CreatedAt
            },
            descending: !folders,
        });
        if folders && sort.by != SortBy::Name {
            let detail = "must be name or -name where there is a delimiter";
            return Err(Error::invalid("/sort", detail));
        }
        let limit = limit(&mut query)?;
        let after = query.parse(
            "cursor",
            "the next_cursor of a page that was sorted alike",
            |text| Cursor::read(text, sort),
        )?;
        Ok(Self {
            filter,
            folders,
            sort,
            after,
            limit,
        })
    }
}

async fn folder(
    app: &App,
    filter: &Filter,
    sort: Sort,
    after: Option<After>,
    limit: u32,
) -> Result<Json<types::FilePage>> {
    let mut entries = app
        .domain
        .file_list_folder(filter, sort.descending, after.as_ref(), limit + 1)
        .await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries
        .last()
        .filter(|_| more)
        .map(|last| Cursor::behind(last.after.clone(), sort));
    let (mut items, mut prefixes) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.what {
            What::File(file) => items.push(types::File::from(*file)),
            What::Folder(folder) => prefixes.push(folder),
        }
    }
    Ok(Json(types::FilePage {
        items,
        next_cursor,
        prefixes: Some(prefixes),
    }))
}

pub(super) fn limit(query: &mut Query) -> Result<u32> {
    let limit = query.parse("limit", "a number from 1 to 1000", |text| {
        text.parse().ok().filter(|limit| (1..=MOST).contains(limit))
    })?;
    Ok(limit.unwrap_or(LIMIT))
}

/// Takes the filters out of a query.
///
/// # Errors
/// 422 for a filter that nothing could match by mistake.
pub(super) fn filter(query: &mut Query, tenant: Tenant, now: Timestamp) -> Result<Filter> {
    let text = |query: &mut Query, name: &str| {
        let text = query.take(name);
        match text.as_deref().and_then(text_fault) {
            Some(fault) => Err(Error::invalid(format!("/{name}"), fault)),
            None => Ok(text),
        }
    };
    let size = |query: &mut Query, name: &str| {
        query.parse(name, "a number of bytes", |text| text.parse::<u64>().ok())
    };
    let time =
        |query: &mut Query, name: &str| query.parse(name, "a time in RFC 3339", Timestamp::parse);
    Ok(Filter {
        prefix: text(query, "prefix")?,
        name: text(query, "name")?,
        content_type: query.parse(
            "content_type",
            "a media type such as image/png, or all of a kind as image/*",
            read_content_type,
        )?,
        metadata: match query.take("metadata") {
            Some(text) => Some(read_metadata(&text)?),
            None => None,
        },
        min_size: size(query, "min_size")?,
        max_size: size(query, "max_size")?,
        created_after: time(query, "created_after")?,
        created_before: time(query, "created_before")?,
        sha256: query.parse("sha256", "64 hexadecimal digits", digest::parse_hex)?,
        trashed: query.flag("trashed")?,
        ..Filter::new(tenant, now)
    })
}

fn read_content_type(text: &str) -> Option<ContentTypes> {
    match text.strip_suffix("/*") {
        // Whether it is one is seen with any subtype.
        Some(kind) => media_type::essence(&format!("{kind}/x"))
            .filter(|essence| essence.len() == kind.len() + 2)
            .map(|_| ContentTypes::Kind(kind.to_owned())),
        None => {
            media_type::parse(text).ok()?;
            Some(ContentTypes::Exactly(text.to_owned()))
        }
    }
}

fn read_metadata(text: &str) -> Result<Metadata> {
    fn values(object: &Metadata) -> usize {
        object.values().map(count).sum()
    }
    fn count(value: &serde_json::Value) -> usize {
        1 + match value {
            serde_json::Value::Array(items) => items.iter().map(count).sum(),
            serde_json::Value::Object(object) => values(object),
            _ => 0,
        }
    }
    let invalid = |detail: &str| Error::invalid("/metadata", detail);
    let metadata: Metadata = extract::json_object(text.as_bytes())
        .map_err(|_| invalid("must be a JSON object, with numbers that a 64-bit float can hold"))?;
    if let Some(fault) = metadata_fault(&metadata) {
        return Err(invalid(fault));
    }
    if values(&metadata) > FILTER_VALUES {
        return Err(invalid("must have at most 100 values"));
    }
    Ok(metadata)
}

pub(super) fn read_sort(text: &str) -> Option<Sort> {
    let (by, descending) = match text.strip_prefix('-') {
        Some(by) => (by, true),
        None => (text, false),
    };
    let by = match by {
        "created_at" => SortBy::CreatedAt,
        "updated_at" => SortBy::UpdatedAt,
        "name" => SortBy::Name,
        "size" => SortBy::Size,
        _ => return None,
    };
    Some(Sort { by, descending })
}

fn after_file(file: &File, by: SortBy) -> After {
    let key = match by {
        SortBy::CreatedAt => SortKey::Time(file.created_at),
        SortBy::UpdatedAt => SortKey::Time(file.updated_at),
        SortBy::Name => SortKey::Name(file.name.clone()),
        SortBy::Size => SortKey::Size(file.size),
    };
    After { key, id: file.id }
}

/// Where a page ended. Opaque to clients: base64url of this as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    descending: bool,
    id: FileId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl Cursor {
    pub(super) fn behind(after: After, sort: Sort) -> String {
        let mut cursor = Self {
            descending: sort.descending,
            id: after.id,
            created_at: None,
            updated_at: None,
            name: None,
            size: None,
        };
        match after.key {
            SortKey::Time(at) if sort.by == SortBy::UpdatedAt => cursor.updated_at = Some(at),
            SortKey::Time(at) => cursor.created_at = Some(at),
            SortKey::Name(name) => cursor.name = Some(name),
            SortKey::Size(size) => cursor.size = Some(size),
        }
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
    }

    /// None for what this service did not write for a list in this order.
    pub(super) fn read(text: &str, sort: Sort) -> Option<After> {
        let text = URL_SAFE_NO_PAD.decode(text).ok()?;
        let cursor: Self = serde_json::from_slice(&text).ok()?;
        if cursor.descending != sort.descending {
            return None;
        }
        let keys = (
            cursor.created_at,
            cursor.updated_at,
            cursor.name,
            cursor.size,
        );
        let key = match (sort.by, keys) {
            (SortBy::CreatedAt, (Some(at), None, None, None)) => SortKey::Time(at),
            (SortBy::UpdatedAt, (None, Some(at), None, None)) => SortKey::Time(at),
            (SortBy::Name, (None, None, Some(name), None)) if text_fault(&name).is_none() => {
                SortKey::Name(name)
            }
            (SortBy::Size, (None, None, None, Some(size))) => SortKey::Size(size),
            _ => return None,
        };
        Some(After { key, id: cursor.id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_whole_or_a_kind() {
        assert_eq!(
            read_content_type("image/*"),
            Some(ContentTypes::Kind("image".to_owned()))
        );
        assert_eq!(
            read_content_type("text/plain; charset=utf-8"),
            Some(ContentTypes::Exactly(
                "text/plain; charset=utf-8".to_owned()
            ))
        );
        for bad in [
            "*/*", "image", "image/", "/*", "", "a b/*", "image/p*", "a/b/*",
        ] {
            assert_eq!(read_content_type(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cursor_belongs_to_one_order() {
        let id = FileId::from_uuid(uuid::Uuid::nil());
        let orders = [
            (SortBy::CreatedAt, SortKey::Time(Timestamp::from_micros(1))),
            (SortBy::UpdatedAt, SortKey::Time(Timestamp::from_micros(1))),
            (SortBy::Name, SortKey::Name("a/b".to_owned())),
            (SortBy::Size, SortKey::Size(7)),
        ];
        for (by, key) in &orders {
            let sort = Sort {
                by: *by,
                descending: true,
            };
            let after = After {
                key: key.clone(),
                id,
            };
            let text = Cursor::behind(after.clone(), sort);
            for (other, _) in &orders {
                let read = |descending| {
                    Cursor::read(
                        &text,
                        Sort {
                            by: *other,
                            descending,
                        },
                    )
                };
                assert_eq!(read(true), (by == other).then(|| after.clone()));
                assert_eq!(read(false), None);
            }
        }
        assert_eq!(Cursor::read("!", read_sort("name").unwrap()), None);
    }
}
