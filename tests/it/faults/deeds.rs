//! What clients do, as values: to be done, and to be predicted.

use box_service::domain::changes::{FileCopy, FilePatch};
use box_service::domain::versions::NewContent;
use box_service::domain::{Caller, Domain};
use box_service::error::{Kind, Result};
use box_service::id::FileId;

use super::uploads::{anyone, body, named, once, sniff, upload_as};
use super::view::{Held, Seen, View};

#[derive(Clone, Debug)]
pub enum Deed {
    Upload {
        name: String,
        bytes: Vec<u8>,
    },
    /// With an Idempotency-Key, so that two of them make one file.
    UploadOnce {
        name: String,
        bytes: Vec<u8>,
    },
    Replace {
        id: FileId,
        bytes: Vec<u8>,
    },
    Rename {
        id: FileId,
        name: String,
    },
    Copy {
        id: FileId,
        name: String,
    },
    Trash {
        id: FileId,
    },
    Restore {
        id: FileId,
    },
    Delete {
        id: FileId,
    },
    DeleteMany {
        ids: Vec<FileId>,
    },
    RestoreVersion {
        id: FileId,
        version: i64,
    },
    /// Sets a legal hold, or lifts it.
    Hold {
        id: FileId,
        on: bool,
    },
}

impl Deed {
    pub async fn run(&self, domain: &Domain, caller: &Caller) -> Result<()> {
        match self.clone() {
            Self::Upload { name, bytes } => {
                upload_as(domain, caller, named(&name), &bytes, None).await?;
            }
            Self::UploadOnce { name, bytes } => {
                upload_as(domain, caller, named(&name), &bytes, once(&name)).await?;
            }
            Self::Replace { id, bytes } => {
                let new = NewContent {
                    content_type: Some("text/plain".to_owned()),
                    ..NewContent::default()
                };
                let source = body(&bytes);
                domain
                    .file_replace(caller, id, new, source, sniff, anyone())
                    .await?;
            }
            Self::Rename { id, name } => {
                let patch = FilePatch {
                    name: Some(name),
                    ..FilePatch::default()
                };
                domain.file_patch(caller, id, patch, anyone()).await?;
            }
            Self::Copy { id, name } => {
                let copy = FileCopy {
                    name: Some(name),
                    ..FileCopy::default()
                };
                domain.file_copy(caller, id, copy, None).await?;
            }
            Self::Trash { id } => domain.file_delete(caller, id, false, anyone()).await?,
            Self::Restore { id } => {
                domain.file_restore(caller, id).await?;
            }
            Self::Delete { id } => domain.file_delete(caller, id, true, anyone()).await?,
            Self::DeleteMany { ids } => {
                domain.file_delete_many(caller, &ids, true).await?;
            }
            Self::RestoreVersion { id, version } => {
                domain.version_restore(caller, id, version).await?;
            }
            Self::Hold { id, on } => {
                let patch = FilePatch {
                    legal_hold: Some(on),
                    may_lift: true,
                    ..FilePatch::default()
                };
                domain.file_patch(caller, id, patch, anyone()).await?;
            }
        }
        Ok(())
    }

    /// What it does to a tenant whose service keeps two versions, or why it is refused.
    pub fn predict(&self, view: &mut View) -> Result<(), Kind> {
        match self {
            Self::Upload { name, bytes } => {
                view.files.insert(name.clone(), Seen::new(bytes));
            }
            Self::UploadOnce { name, bytes } => {
                // The second one is told of the first one's.
                let made = view.files.entry(name.clone());
                made.or_insert_with(|| Seen::new(bytes));
            }
            Self::Replace { id, bytes } => {
                let seen = view.by_id(*id)?;
                if seen.trashed {
                    return Err(Kind::Gone);
                }
                seen.may_go()?;
                seen.becomes(|version| Held::new(version, bytes));
            }
            Self::Rename { id, name } => {
                let seen = view.by_id(*id)?;
                if seen.trashed {
                    return Err(Kind::Conflict);
                }
                seen.happens("file.updated");
                view.rename(*id, name);
            }
            Self::Copy { id, name } => {
                let seen = view.by_id(*id)?;
                if seen.trashed {
                    return Err(Kind::Conflict);
                }
                let copy = Seen {
                    id: None,
                    held: false,
                    revision: 1,
                    contents: vec![Held {
                        version: 1,
                        ..seen.contents[0].clone()
                    }],
                    happened: vec!["file.copied".to_owned()],
                    ..seen.clone()
                };
                view.files.insert(name.clone(), copy);
            }
            Self::Trash { id } => {
                let seen = view.by_id(*id)?;
                seen.may_go()?;
                if !std::mem::replace(&mut seen.trashed, true) {
                    seen.happens("file.trashed");
                }
            }
            Self::Restore { id } => {
                let seen = view.by_id(*id)?;
                if std::mem::replace(&mut seen.trashed, false) {
                    seen.happens("file.restored");
                }
            }
            Self::Delete { id } => {
                view.by_id(*id)?.may_go()?;
                view.remove_by_id(*id)?;
            }
            Self::DeleteMany { ids } => {
                for id in ids {
                    // What is not there counts as absent, and what is held stays.
                    if view.by_id(*id).is_ok_and(|seen| !seen.held) {
                        view.remove_by_id(*id)?;
                    }
                }
            }
            Self::RestoreVersion { id, version } => {
                let seen = view.by_id(*id)?;
                if seen.trashed {
                    return Err(Kind::Conflict);
                }
                if seen.contents[0].version == *version {
                    return Ok(());
                }
                seen.may_go()?;
                let found = seen.contents.iter().find(|held| held.version == *version);
                let found = found.ok_or(Kind::NotFound)?.clone();
                seen.becomes(|version| Held { version, ..found });
            }
            Self::Hold { id, on } => {
                let seen = view.by_id(*id)?;
                if seen.trashed {
                    return Err(Kind::Conflict);
                }
                if std::mem::replace(&mut seen.held, *on) != *on {
                    seen.happens("file.updated");
                }
            }
        }
        Ok(())
    }
}

impl Seen {
    fn may_go(&self) -> Result<(), Kind> {
        if self.held {
            Err(Kind::Conflict)
        } else {
            Ok(())
        }
    }

    fn becomes(&mut self, held: impl FnOnce(i64) -> Held) {
        let held = held(self.contents[0].version + 1);
        self.contents.insert(0, held);
        self.contents.truncate(3);
        self.happens("file.content_replaced");
    }
}

impl View {
    fn name(&self, id: FileId) -> Result<String, Kind> {
        let found = self.files.iter().find(|(_, seen)| seen.id == Some(id));
        found.map(|(name, _)| name.clone()).ok_or(Kind::NotFound)
    }

    fn by_id(&mut self, id: FileId) -> Result<&mut Seen, Kind> {
        let name = self.name(id)?;
        Ok(self.file(&name))
    }

    fn rename(&mut self, id: FileId, name: &str) {
        if let Ok(old) = self.name(id)
            && let Some(seen) = self.files.remove(&old)
        {
            self.files.insert(name.to_owned(), seen);
        }
    }

    fn remove_by_id(&mut self, id: FileId) -> Result<(), Kind> {
        let name = self.name(id)?;
        self.remove(&name, "file.deleted");
        Ok(())
    }
}
