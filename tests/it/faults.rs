//! Every fault point: each operation of the domain is run again and again, and each time the
//! database or the store fails, dies or stands still one step later, until the operation ends
//! without having met the fault. Whatever happened, the client sees all of it or nothing, and once
//! the reaper is at rest, database and store agree.
//!
//! Nobody lists the points: they lie where all calls go through (`box_service::faults`).

mod audit;
mod changes;
mod deeds;
mod direct;
mod doctor;
mod generation;
mod imports;
mod late;
mod lifecycle;
mod links;
mod model;
mod races;
mod reaping;
mod removals;
mod site;
mod sources;
mod start;
mod tus;
mod uploads;
mod view;
mod walk;
