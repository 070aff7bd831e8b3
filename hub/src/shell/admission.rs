//! Who may talk to the hub: asked by the broker's threads, told by the core.
//!
//! It decides nothing: the core admits and expels. A node that was never admitted is refused.

use crate::broker::IsAllowed;
use shared::model::NodeId;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tracing::error;

/// The admitted nodes, each with the serial number from which on its certificates hold. Serial
/// numbers rise, so a smaller one is a certificate of an earlier holder of the name.
#[derive(Debug, Clone, Default)]
pub(super) struct Admissions(Arc<RwLock<HashMap<NodeId, u64>>>);

impl Admissions {
    /// `node` may come in with the certificate of this serial number (hexadecimal) or a later one.
    pub(super) fn admit(&self, node: &NodeId, certificate_serial: &str) {
        let Ok(serial) = u64::from_str_radix(certificate_serial, 16) else {
            return error!(node = %node, certificate_serial, "not a serial number: it stays out");
        };
        let mut admitted = self.0.write().unwrap_or_else(PoisonError::into_inner);
        admitted.insert(node.clone(), serial);
    }

    /// `node` must stay out.
    pub(super) fn expel(&self, node: &NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// The question of the broker. An external broker does not tell the serial number.
    pub(super) fn question(&self) -> IsAllowed {
        let admissions = self.clone();
        Arc::new(move |node, serial| admissions.allow(node, serial))
    }

    fn allow(&self, node: &NodeId, certificate_serial: Option<&str>) -> bool {
        let admitted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = admitted.get(node) else { return false };
        let holds = |serial: u64| serial >= *first;
        certificate_serial.is_none_or(|text| u64::from_str_radix(text, 16).is_ok_and(holds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_admitted_come_in_and_not_with_an_earlier_holders_certificate() {
        let admissions = Admissions::default();
        let question = admissions.question();
        let (node, other) = (NodeId::new("mast-17").unwrap(), NodeId::new("mast-18").unwrap());
        assert!(!question(&node, Some("1f")));
        admissions.admit(&node, "1f");
        assert!(
            question(&node, Some("1f")) && question(&node, Some("20")) && question(&node, None)
        );
        assert!(!question(&node, Some("1e")), "the certificate of an earlier holder");
        assert!(!question(&node, Some("ffffffffffffffffffff")), "a number that was never given");
        assert!(!question(&other, Some("1f")) && !question(&other, None));
        admissions.expel(&node);
        assert!(!question(&node, Some("1f")) && !question(&node, None));
    }
}
