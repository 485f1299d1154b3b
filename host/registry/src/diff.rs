//! Two versions side by side. Pure.

use std::collections::BTreeSet;

use ringfence_core::{Grants, Need, Needs, PluginName};

use crate::record::{Change, NeedChange, VersionDiff, VersionRecord};

/// Compares two versions of a plugin. A need whose scope grew is `Same` for the part both have and `Added` for the rest.
pub(crate) fn compare(plugin: &PluginName, from: &VersionRecord, to: &VersionRecord, grants: &Grants) -> VersionDiff {
    VersionDiff {
        plugin: plugin.clone(),
        from: from.label.clone(),
        to: to.label.clone(),
        needs: needs(&from.needs, &to.needs, grants),
        bytes: (from.bytes, to.bytes),
        budget: (from.budget, to.budget),
        exports: names(from.exports.iter(), to.exports.iter()),
        imports: names(from.imports.iter().map(|i| &i.name), to.imports.iter().map(|i| &i.name)),
    }
}

fn needs(from: &Needs, to: &Needs, grants: &Grants) -> Vec<NeedChange> {
    let added = to.added_since(from);
    let removed = from.added_since(to);
    let same = Needs(to.0.clone()).0.into_iter().filter_map(|need| without(need, &added));
    let changes = |needs: Vec<Need>, change| needs.into_iter().map(move |need| (need, change)).collect::<Vec<_>>();
    let mut rows: Vec<NeedChange> = changes(same.collect(), Change::Same)
        .into_iter()
        .chain(changes(added, Change::Added))
        .chain(changes(removed, Change::Removed))
        .map(|(need, change)| NeedChange {
            granted: grants.missing(&Needs(vec![need.clone()])).is_empty(),
            need,
            change,
        })
        .collect();
    rows.sort_by_key(|row| row.need.capability);
    rows
}

/// What is left of a need when the added part is taken away.
fn without(mut need: Need, added: &[Need]) -> Option<Need> {
    match added.iter().find(|other| other.capability == need.capability) {
        None => Some(need),
        Some(other) => {
            need.scope.retain(|name| !other.scope.contains(name));
            (!need.scope.is_empty()).then_some(need)
        }
    }
}

fn names<'a>(from: impl Iterator<Item = &'a String>, to: impl Iterator<Item = &'a String>) -> Vec<(String, Change)> {
    let (from, to): (BTreeSet<_>, BTreeSet<_>) = (from.collect(), to.collect());
    from.union(&to)
        .map(|name| {
            let change = match (from.contains(name), to.contains(name)) {
                (true, true) => Change::Same,
                (true, false) => Change::Removed,
                _ => Change::Added,
            };
            ((*name).clone(), change)
        })
        .collect()
}
