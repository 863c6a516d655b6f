//! Box Service: a file service between an application team's apps and their bucket.
//!
//! A request goes one way down these layers and back; nothing lower knows anything higher:
//! `http` and `workers` → `domain` → (`metadata`, `objects`) and back.

pub mod auth;
pub mod clock;
pub mod config;
pub mod domain;
pub mod error;
pub mod http;
pub mod id;
pub mod metadata;
pub mod objects;
pub mod telemetry;
pub mod workers;
