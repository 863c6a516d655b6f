pub mod conditional;
pub mod digest;
pub mod disposition;
pub mod media_type;
pub mod range;
