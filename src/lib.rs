//! Box Service: a file service between an application team's apps and their bucket.
//!
//! A request goes one way down these layers and back; nothing lower knows anything higher
//! (`tests/it/layers.rs` reads the `use` lines and fails where one points up):
//!
//! | layer | knows | never |
//! |---|---|---|
//! | [`http`] | axum, JSON shapes, status codes, OpenAPI | SQL, object keys, business rules |
//! | [`workers`] | loops that call `domain` | rules of their own |
//! | [`domain`] | the rules; intent before bytes | HTTP types, SQL text |
//! | [`metadata`] | the database | HTTP, the object store |
//! | [`objects`] | the object store, keys and their prefix | the database |
//! | [`auth`], [`config`], [`telemetry`] | as they say | anything above |
//! | [`error`], [`id`], [`clock`] | the vocabulary that all share | everything else |
//!
//! [`cli`] and [`app`] put the parts together.

pub mod clock;
pub mod error;
pub mod id;

pub mod objects;
