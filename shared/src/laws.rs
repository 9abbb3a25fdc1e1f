//! What must hold for any input at all, one function for each thing that is parsed: the body of a
//! fuzz target (`tests/fuzz`), and of a test over the seeds and every input that once broke a law.

pub use crate::config::laws::config;
pub use crate::interfaces::laws::interfaces;
pub use crate::ledger::laws::ledger;
pub use crate::name::laws::template;
pub use crate::ovsdb::laws::ovsdb;

#[cfg(test)]
mod tests {
    use laws::hold_for_seeds;

    use super::*;

    #[test]
    fn the_laws_of_the_configuration_hold() {
        hold_for_seeds("config", config);
    }

    #[test]
    fn the_laws_of_the_interfaces_file_hold() {
        hold_for_seeds("interfaces", interfaces);
    }

    #[test]
    fn the_laws_of_the_ledger_hold() {
        hold_for_seeds("ledger", ledger);
    }

    #[test]
    fn the_laws_of_the_naming_template_hold() {
        hold_for_seeds("template", template);
    }

    #[test]
    fn the_laws_of_ovsdb_hold() {
        hold_for_seeds("ovsdb", ovsdb);
    }
}
