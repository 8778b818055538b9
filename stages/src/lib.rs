//! impasto's stage kinds: what each declares, and the Actions it lowers to.
//! Pure: no I/O, no clock, no environment. Knows digests and steps; knows no recipe syntax, store layout or sandbox.
//!
//! A recipe's stage arrives as a kind's name and evaluated [`Params`]; [`Kind::lower`] turns it into
//! [`ActionTemplate`]s, whose inputs are still [`Slot`]s. The engine binds each slot to a
//! [`ContentDigest`](impasto_store::digest::ContentDigest) and hashes the resulting [`Action`] into its key.

pub mod action;
pub mod bootstrap;
pub mod disk;
mod error;
mod kinds;
mod limits;
pub mod media;
mod number;
pub mod package_set;
mod params;
mod registry;
pub mod source;
mod ssh_key;
pub mod test_spec;
mod value;
pub mod vendor;
pub mod volatile;

pub use action::{Action, ActionTemplate, Slot};
pub use error::ParamError;
pub use kinds::archive_extension;
pub use limits::Limits;
pub use number::{Number, NumberError};
pub use params::{Params, Secret, parse_duration, parse_mode, parse_size, print_duration};
pub use registry::{
    Expand, Kind, Lower, Lowered, Makes, ParamSpec, Registry, StageContext, Type, UnitFiles,
};
pub use value::{Data, Marks, Nested, Origin, Sensitive, Shared, Source, Value};
