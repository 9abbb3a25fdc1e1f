//! stub
use super::{Endpoint, Error};
use crate::mac::Mac;
use crate::name::IfName;
use std::time::Duration;
pub const DEADLINE: Duration = Duration::from_secs(2);
pub fn alive(_e: &Endpoint, _d: Duration) -> Result<(), Error> {
    Ok(())
}
pub fn has_seen(_e: &Endpoint, _p: &IfName, _m: Mac) -> Result<bool, Error> {
    Ok(true)
}
