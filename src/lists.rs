//! Checks of a list before anybody sends to it: what speaks against each address, what the list as a whole is worth, and
//! how many of it to write to a day.
//!
//! - [`facts`]: roles, disposable domains, large providers, as dated data · [`judge`]: what is seen in an address, pure
//! - [`check`]: a file as a whole, with the suppressions and the lake, and address by address · [`traps`]: known ones · [`plan`]: how many a day, freshest first

pub mod check;
pub mod facts;
pub mod judge;
pub mod plan;
pub mod traps;
