//! The ids of ATT&CK that rules may carry, for the version they are pinned to. Ids only; the names are MITRE's.
//!
//! ATT&CK 19.1 took T1562 and T1070.001 away and brought T1685 and T1686; an id of another version is refused, so that
//! a rule never says one thing under two versions. (c) The MITRE Corporation, reproduced and distributed with the
//! permission of The MITRE Corporation.

/// The version whose ids are known here.
pub const VERSION: &str = "19.1";

/// The known ids, in order.
const IDS: [&str; 64] = [
    "T1020",
    "T1021",
    "T1029",
    "T1030",
    "T1041",
    "T1046",
    "T1048",
    "T1059",
    "T1068",
    "T1069",
    "T1070",
    "T1071",
    "T1071.001",
    "T1074",
    "T1078",
    "T1083",
    "T1087",
    "T1090",
    "T1098",
    "T1106",
    "T1110",
    "T1110.001",
    "T1110.002",
    "T1110.003",
    "T1110.004",
    "T1119",
    "T1133",
    "T1136",
    "T1190",
    "T1195.002",
    "T1199",
    "T1203",
    "T1210",
    "T1212",
    "T1213",
    "T1484",
    "T1485",
    "T1486",
    "T1489",
    "T1490",
    "T1496.001",
    "T1498",
    "T1499",
    "T1499.003",
    "T1499.004",
    "T1525",
    "T1530",
    "T1531",
    "T1539",
    "T1548",
    "T1550.001",
    "T1552.001",
    "T1552.004",
    "T1553",
    "T1554",
    "T1567",
    "T1572",
    "T1611",
    "T1613",
    "T1621",
    "T1648",
    "T1685",
    "T1685.002",
    "T1686",
];

/// Whether there is such an id in [`VERSION`].
pub fn is_known(id: &str) -> bool {
    IDS.binary_search(&id).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_without_what_the_version_took_away() {
        assert!(IDS.is_sorted());
        assert!(is_known("T1110.003") && is_known("T1685.002"));
        assert!(!is_known("T1562") && !is_known("T1070.001") && !is_known("t1110"));
    }
}
