//! Files but for their content: uploads, lists, JSON, trash and expiry.

mod deletes;
mod digests;
mod expiry;
mod limits;
mod listing;
mod multipart;
mod types;
mod uploads;
