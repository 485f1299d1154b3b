//! The plugin's own directory (`wasi:filesystem`), encrypted by the host under the tenant's key.
//!
//! With the grant it is `/` to the whole standard library; this parameter says early that the grant is missing. Ask for it
//! with `files = []` under `[needs]`: a component cannot say so itself, because every standard library imports the
//! interface. Must never be needed by a plugin that does not name it.

use std::fs;
use std::path::PathBuf;

use crate::{Call, FromHost, HostError, Result};

/// The plugin's own directory.
#[derive(Debug)]
pub struct Files(());

impl FromHost for Files {
    fn from_host(_: &mut Call) -> Result<Self> {
        fs::metadata("/").map_err(|_| HostError::Denied("files".to_owned()))?;
        Ok(Self(()))
    }
}

impl Files {
    /// A path of the directory, for `std::fs`.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/").join(name.trim_start_matches('/'))
    }

    /// Writes a file in place of one of that name: whoever reads sees the old one or the new.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let (path, unfinished) = (self.path(name), self.path(&format!("{name}.unfinished")));
        fs::write(&unfinished, content)?;
        Ok(fs::rename(unfinished, path)?)
    }

    /// A file's content; none when there is no such file.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
