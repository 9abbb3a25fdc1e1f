//! A conformance suite for CNI plugins. Cases are files (`tests/conformance/cases`): calls with
//! their environment and stdin, the answer that the specification wants, and what must be seen
//! before and after. Any plugin can be put before them; a profile (`tests/conformance/plugins`) says
//! what a working configuration of it looks like.

mod answer;
mod case;
mod picture;
mod profile;
mod run;

pub use case::Case;
pub use profile::{Kind, Profile};
pub use run::{Outcome, Suite, Verdict};
