//! Lines of a body, taken out of it as it comes.

use crate::error::{Error, Result};

/// Text between line feeds.
pub(super) struct Lines {
    rest: Vec<u8>,
    most: usize,
}

impl Lines {
    /// Lines of `most` bytes at the most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            rest: Vec::new(),
            most,
        }
    }

    /// Takes the next bytes; `line` gets each line that is complete with them.
    ///
    /// # Errors
    /// 422 for a line that is too long; what `line` says.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut line: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = (&bytes[..at], &bytes[at + 1..]);
            if self.rest.is_empty() {
                line(head)?;
            } else {
                self.hold(head)?;
                line(&std::mem::take(&mut self.rest))?;
            }
            bytes = tail;
        }
        self.hold(bytes)
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<()> {
        if self.rest.len() + bytes.len() > self.most {
            return Err(too_long(self.most));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes the end: `line` gets what stands behind the last line feed.
    ///
    /// # Errors
    /// What `line` says.
    pub(super) fn end(&mut self, mut line: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        line(&std::mem::take(&mut self.rest))
    }
}

pub(super) fn too_long(most: usize) -> Error {
    Error::invalid("", format!("an item is longer than {} KiB", most / 1024))
}
