//! `format` made again: out of the copy that is left, or, on request, for objects that are found to be sound.
//! Knows when that is safe; what is sound is `verify`'s knowledge.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::StoreFs;
use crate::owner::Owner;
use crate::store::{Store, new_format, whole_format};

impl Store {
    /// Gives a store whose `format` is lost, or has no valid copy, a new one of this version: where its objects can be read,
    /// and most of them are sound. A store that can be opened stays as it is.
    ///
    /// # Errors
    /// The directory is not a store, is one of another version, or most of its objects are not as this version writes them.
    pub fn renew_format(path: impl AsRef<Path>, owner: &Owner) -> Result<()> {
        match Store::open_for(path.as_ref(), owner) {
            Err(Error::FormatDamaged { .. } | Error::FormatMissing { .. }) => {}
            other => return other.map(|_| ()),
        }
        let fs = Arc::new(StoreFs::open(path.as_ref(), owner)?);
        let store = Store::without_format(fs.clone(), None);
        let report = store.verify(false)?;
        let damaged = report
            .findings
            .iter()
            .filter(|finding| finding.code.is_object_damage())
            .count() as u64;
        let sound = report.objects.saturating_sub(damaged);
        if sound <= damaged {
            return Err(Error::NotSound {
                path: fs.path().to_owned(),
                objects: report.objects,
                sound,
            });
        }
        write(&fs, &new_format())
    }

    /// Makes `format` whole again out of a valid copy among its bytes; without one it stays.
    pub(crate) fn repair_format(&self, bytes: &[u8]) -> Result<()> {
        whole_format(bytes).map_or(Ok(()), |whole| write(self.fs(), &whole))
    }
}

fn write(fs: &Arc<StoreFs>, bytes: &[u8]) -> Result<()> {
    let mut temp = fs.temp()?;
    temp.write_all(bytes)?;
    fs.publish_over(temp, "format")
}
