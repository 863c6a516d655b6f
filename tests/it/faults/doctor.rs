//! What `box doctor` writes, reads and deletes.

use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Result};
use bytes::Bytes;

use super::site::Site;
use super::view::View;
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(doctor_probe: Probe);

struct Probe;

/// No file comes of it, and whatever happens the reaper finds what it left.
impl Operation for Probe {
    const NAME: &'static str = "doctor's probe";
    const REPEATS: bool = true;
    const LEASED: bool = true;
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, _: &Caller, (): &()) -> Result<()> {
        let mut probe = domain.probe_write(Bytes::from_static(b"probe")).await?;
        let tried = async {
            domain.probe_read(&probe).await?;
            domain.probe_again(&mut probe).await
        }
        .await;
        let ended = domain.probe_end(probe).await;
        if tried? == Some(false) {
            // It was refused unless the reaper had the object meanwhile: nothing else stands where this may fail.
            return Err(Error::unavailable("what was written is not there"));
        }
        ended
    }

    fn done(&self, (): &(), _: &mut View) {}
}
