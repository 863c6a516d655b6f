//! What the tests stand on: databases, and whole services that are called over TCP.

pub mod binary;
pub mod client;
pub mod collector;
pub mod connection;
pub mod content;
pub mod database;
pub mod front;
pub mod inside;
pub mod issuer;
pub mod origin;
pub mod proxy;
pub mod raw;
pub mod service;
pub mod tls_origin;
