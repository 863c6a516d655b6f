//! Box Service: a file service between an application team's apps and their bucket.
//!
//! A request goes one way down these layers and back. A module may use those above its row in
//! this table (what is more basic), and its own; `tests/it/layers.rs` reads the `use` lines and
//! fails where one points down.
//!
//! | row | modules | what they know |
//! |---|---|---|
//! | 1 | `clock`, `id`, `error`, `faults`, `metrics`, `places`, `trace` | nothing of the others but each other |
//! | 2 | `telemetry`; `metadata`: the database; `objects`: the store; `fetch`: outgoing HTTP | nothing of each other |
//! | 3 | `config` | what can be configured |
//! | 4 | `auth`: tokens in, principals out; `domain`: the rules | no HTTP, no SQL, no names of keys |
//! | 5 | `app` | one service, put together from its configuration |
//! | 6 | `http`: routes, shapes, statuses; `workers`: loops that call the domain | no rules |
//! | 7 | `server` | connections |
//! | 8 | `cli` | commands |

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod error;
pub mod faults;
pub mod fetch;
pub mod http;
pub mod id;
pub mod metadata;
pub mod metrics;
pub mod objects;
pub mod places;
pub mod server;
pub mod telemetry;
pub mod trace;
pub mod workers;
