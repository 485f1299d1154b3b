//! Both spellings of key-value, called as a guest's imports are.

use ringfence_core::{Budget, Capability, HostAct, Quota};
use wasmtime::component::Resource;

use super::Bucket;
use crate::bindings::{keyvalue_draft, keyvalue_draft2};
use crate::testing::{Rig, TestGuest};

use keyvalue_draft::keyvalue::atomics::Host as Atomics;
use keyvalue_draft::keyvalue::batch::Host as Batch;
use keyvalue_draft::keyvalue::store as draft;
use keyvalue_draft2::keyvalue::atomics::{CasError, Host as Atomics2, HostCas};
use keyvalue_draft2::keyvalue::batch::Host as Batch2;
use keyvalue_draft2::keyvalue::store as draft2;
use keyvalue_draft2::keyvalue::store::{Host as Store2, HostBucket as Bucket2};

const DEFAULT: &[(Capability, &[&str])] = &[(Capability::Keyvalue, &["default"])];

async fn open(guest: &mut TestGuest, name: &str) -> Resource<Bucket> {
    draft::Host::open(&mut guest.view(), name.to_owned()).await.unwrap().unwrap()
}

fn same(bucket: &Resource<Bucket>) -> Resource<Bucket> {
    Resource::new_borrow(bucket.rep())
}

#[tokio::test]
async fn a_value_is_set_read_listed_and_deleted() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    assert_eq!(draft::HostBucket::get(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap(), None);
    draft::HostBucket::set(&mut view, same(&bucket), "k".into(), b"v".to_vec()).await.unwrap().unwrap();
    assert_eq!(
        draft::HostBucket::get(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap(),
        Some(b"v".to_vec())
    );
    assert!(draft::HostBucket::exists(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap());
    let listed = draft::HostBucket::list_keys(&mut view, same(&bucket), None).await.unwrap().unwrap();
    assert_eq!((listed.keys, listed.cursor), (vec!["k".to_owned()], None));
    draft::HostBucket::delete(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap();
    draft::HostBucket::delete(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap();
    assert!(!draft::HostBucket::exists(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap());
}

#[tokio::test]
async fn the_spellings_share_one_bucket() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let one = open(&mut guest, "default").await;
    let two = Store2::open(&mut guest.view(), String::new()).await.unwrap().unwrap();
    let mut view = guest.view();
    draft::HostBucket::set(&mut view, same(&one), "k".into(), b"7".to_vec()).await.unwrap().unwrap();
    assert_eq!(Bucket2::get(&mut view, same(&two), "k".into()).await.unwrap().unwrap(), Some(b"7".to_vec()));
    assert_eq!(Atomics::increment(&mut view, same(&one), "k".into(), 5).await.unwrap().unwrap(), 12);
    assert_eq!(Atomics2::increment(&mut view, same(&two), "k".into(), -20).await.unwrap().unwrap(), -8);
    // The unsigned spelling cannot say minus eight, nor go below zero.
    assert!(Atomics::increment(&mut view, same(&one), "k".into(), 1).await.unwrap().is_err());
}

#[tokio::test]
async fn pages_together_list_every_key_once() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    let pairs: Vec<_> = (0..250).map(|number| (format!("key-{number:03}"), vec![1])).collect();
    let keys: Vec<_> = pairs.iter().map(|(key, _)| key.clone()).collect();
    Batch::set_many(&mut view, same(&bucket), pairs).await.unwrap().unwrap();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = draft::HostBucket::list_keys(&mut view, same(&bucket), cursor).await.unwrap().unwrap();
        seen.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, keys);
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = Bucket2::list_keys(&mut view, same(&bucket), cursor).await.unwrap().unwrap();
        seen.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, keys);
}

#[tokio::test]
async fn an_invented_cursor_is_refused() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    assert!(draft::HostBucket::list_keys(&mut view, same(&bucket), Some(9)).await.unwrap().is_err());
    assert!(Bucket2::list_keys(&mut view, same(&bucket), Some("../..".into())).await.unwrap().is_err());
}

#[tokio::test]
async fn batches_answer_key_by_key() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    Batch2::set_many(&mut view, same(&bucket), vec![("a".into(), vec![1]), ("b".into(), vec![2])])
        .await
        .unwrap()
        .unwrap();
    let asked = vec!["a".to_owned(), "none".to_owned(), "b".to_owned()];
    let found = Batch::get_many(&mut view, same(&bucket), asked.clone()).await.unwrap().unwrap();
    assert_eq!(found, vec![Some(("a".to_owned(), vec![1])), None, Some(("b".to_owned(), vec![2]))]);
    let found = Batch2::get_many(&mut view, same(&bucket), asked).await.unwrap().unwrap();
    assert_eq!(found.get(1), Some(&("none".to_owned(), None)));
    Batch::delete_many(&mut view, same(&bucket), vec!["a".into(), "b".into()]).await.unwrap().unwrap();
    assert!(!draft::HostBucket::exists(&mut view, same(&bucket), "a".into()).await.unwrap().unwrap());
    let many = vec![String::from("k"); super::BATCH_COUNT_MAX + 1];
    assert!(Batch::get_many(&mut view, same(&bucket), many).await.unwrap().is_err());
}

#[tokio::test]
async fn of_two_swaps_from_one_value_one_wins_and_the_other_gets_the_newer_value() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    let first = HostCas::new(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap();
    let second = HostCas::new(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap();
    assert_eq!(HostCas::current(&mut view, Resource::new_borrow(first.rep())).await.unwrap().unwrap(), None);
    Atomics2::swap(&mut view, first, b"one".to_vec()).await.unwrap().unwrap();
    let Err(CasError::CasFailed(newer)) = Atomics2::swap(&mut view, second, b"two".to_vec()).await.unwrap() else {
        panic!("both won")
    };
    assert_eq!(
        HostCas::current(&mut view, Resource::new_borrow(newer.rep())).await.unwrap().unwrap(),
        Some(b"one".to_vec())
    );
    Atomics2::swap(&mut view, newer, b"two".to_vec()).await.unwrap().unwrap();
    assert_eq!(
        draft::HostBucket::get(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap(),
        Some(b"two".to_vec())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost_among_many_guests() {
    let rig = Rig::new(DEFAULT).await;
    let guests: Vec<_> = (0..8)
        .map(|_| {
            let mut guest = rig.guest(Budget::DEFAULT);
            tokio::spawn(async move {
                let bucket = open(&mut guest, "").await;
                for _ in 0..20 {
                    Atomics::increment(&mut guest.view(), same(&bucket), "n".into(), 1).await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for guest in guests {
        guest.await.unwrap();
    }
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    assert_eq!(Atomics::increment(&mut guest.view(), same(&bucket), "n".into(), 0).await.unwrap().unwrap(), 160);
}

#[tokio::test]
async fn a_bucket_outside_the_scope_is_denied_and_a_bad_name_unknown() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let mut view = guest.view();
    assert!(matches!(draft::Host::open(&mut view, "other".into()).await.unwrap(), Err(draft::Error::AccessDenied)));
    assert!(matches!(Store2::open(&mut view, "../x".into()).await.unwrap(), Err(draft2::Error::NoSuchStore)));
    rig.grant(&[(Capability::Keyvalue, &["*"])]);
    assert!(draft::Host::open(&mut view, "other".into()).await.unwrap().is_ok());
}

#[tokio::test]
async fn plugins_and_buckets_do_not_see_each_other() {
    let rig = Rig::new(&[(Capability::Keyvalue, &["*"])]).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let (one, two) = (open(&mut guest, "one").await, open(&mut guest, "two").await);
    draft::HostBucket::set(&mut guest.view(), same(&one), "k".into(), vec![1]).await.unwrap().unwrap();
    assert!(!draft::HostBucket::exists(&mut guest.view(), same(&two), "k".into()).await.unwrap().unwrap());
    let mut other = rig.guest_of("other", Budget::DEFAULT);
    let bucket = open(&mut other, "one").await;
    assert!(!draft::HostBucket::exists(&mut other.view(), same(&bucket), "k".into()).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_revoked_grant_stops_the_next_call_on_an_open_bucket() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    draft::HostBucket::set(&mut guest.view(), same(&bucket), "k".into(), vec![1]).await.unwrap().unwrap();
    let cas = HostCas::new(&mut guest.view(), same(&bucket), "k".into()).await.unwrap().unwrap();
    rig.grant(&[]);
    let mut view = guest.view();
    let denied = draft::HostBucket::get(&mut view, same(&bucket), "k".into()).await.unwrap();
    assert!(matches!(denied, Err(draft::Error::AccessDenied)));
    assert!(Atomics::increment(&mut view, same(&bucket), "k".into(), 1).await.unwrap().is_err());
    assert!(Batch::set_many(&mut view, same(&bucket), vec![("k".into(), vec![2])]).await.unwrap().is_err());
    let denied = Atomics2::swap(&mut view, cas, vec![2]).await.unwrap();
    assert!(matches!(denied, Err(CasError::StoreError(draft2::Error::AccessDenied))));
}

#[tokio::test]
async fn a_call_over_the_budget_traps() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget { host_calls_count: 2, ..Budget::DEFAULT });
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    assert!(draft::HostBucket::get(&mut view, same(&bucket), "k".into()).await.is_ok());
    assert!(draft::HostBucket::get(&mut view, same(&bucket), "k".into()).await.is_err());
}

#[tokio::test]
async fn keys_and_values_have_limits() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut view = guest.view();
    for key in [String::new(), "x".repeat(1_025)] {
        assert!(draft::HostBucket::set(&mut view, same(&bucket), key, vec![1]).await.unwrap().is_err());
    }
    let key = "x".repeat(1_024);
    assert!(draft::HostBucket::set(&mut view, same(&bucket), key, vec![1]).await.unwrap().is_ok());
    let large = vec![0; ringfence_core::limits::KV_VALUE_BYTES_MAX + 1];
    assert!(draft::HostBucket::set(&mut view, same(&bucket), "k".into(), large).await.unwrap().is_err());
    draft::HostBucket::set(&mut view, same(&bucket), "word".into(), b"word".to_vec()).await.unwrap().unwrap();
    assert!(Atomics::increment(&mut view, same(&bucket), "word".into(), 1).await.unwrap().is_err());
}

#[tokio::test]
async fn operations_and_bytes_over_the_tenants_quota_are_refused_in_words_until_it_is_raised() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = open(&mut guest, "").await;
    let mut set = async |bytes: usize| {
        let mut view = guest.view();
        match draft::HostBucket::set(&mut view, same(&bucket), "k".into(), vec![0; bytes]).await.unwrap() {
            Ok(()) => "set".to_owned(),
            Err(draft::Error::Other(why)) => why,
            Err(other) => panic!("{other:?}"),
        }
    };
    rig.ledger.set(Quota { storage_ops_per_second: 2, storage_bytes: 2_000, ..Quota::STANDARD });
    assert_eq!(set(100).await, "set");
    assert_eq!(set(2_000).await, "the tenant's quota of 2000 bytes of storage is used up");
    assert_eq!(set(100).await, "the tenant's quota of 2 storage operations a second is used up");
    let used = rig.ledger.usage().unwrap();
    assert_eq!((used.storage_refused_count, used.storage_ops_refused_count), (1, 1));
    assert_eq!(rig.ledger.take_refused(), [("storage", 1), ("storage-ops", 1)]);
    assert_eq!(rig.ledger.take_refused(), [], "each is told once");
    assert!((100..400).contains(&used.storage_bytes), "{used:?}");
    rig.ledger.set(Quota { storage_bytes: 4_000, ..Quota::STANDARD });
    rig.pass(1);
    assert_eq!(set(2_000).await, "set");
}

#[tokio::test]
async fn policy_is_asked_at_every_call_with_the_key_and_its_no_is_a_denied_access() {
    let rig = Rig::new(DEFAULT).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let bucket = Store2::open(&mut guest.view(), String::new()).await.unwrap().unwrap();
    let mut view = guest.view();
    Bucket2::set(&mut view, same(&bucket), "k".into(), b"7".to_vec()).await.unwrap().unwrap();
    let cas = HostCas::new(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap();
    rig.strict.asked();
    rig.strict.forbid(&[HostAct::ReadValue, HostAct::ListValues, HostAct::DeleteValue]);
    let denied = |error: draft2::Error| assert!(matches!(error, draft2::Error::AccessDenied), "{error:?}");
    denied(Bucket2::get(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap_err());
    denied(Bucket2::exists(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap_err());
    denied(Bucket2::delete(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap_err());
    denied(Bucket2::list_keys(&mut view, same(&bucket), None).await.unwrap().unwrap_err());
    denied(Batch2::get_many(&mut view, same(&bucket), vec!["k".into()]).await.unwrap().unwrap_err());
    denied(Batch2::delete_many(&mut view, same(&bucket), vec!["k".into()]).await.unwrap().unwrap_err());
    denied(Atomics2::increment(&mut view, same(&bucket), "k".into(), 1).await.unwrap().unwrap_err());
    denied(HostCas::new(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap_err());
    denied(HostCas::current(&mut view, Resource::new_borrow(cas.rep())).await.unwrap().unwrap_err());
    let asked = rig.strict.asked();
    let of = |act| asked.iter().filter(|(one, _)| *one == act).map(|(_, on)| on.as_str()).collect::<Vec<_>>();
    assert_eq!(of(HostAct::ReadValue), vec!["default k"; 6]);
    assert_eq!((of(HostAct::DeleteValue), of(HostAct::ListValues)), (vec!["default k"; 2], vec!["default "]));
    rig.strict.forbid(&[HostAct::WriteValue]);
    denied(Bucket2::set(&mut view, same(&bucket), "k".into(), b"8".to_vec()).await.unwrap().unwrap_err());
    denied(Batch2::set_many(&mut view, same(&bucket), vec![("k".into(), b"8".to_vec())]).await.unwrap().unwrap_err());
    denied(Atomics2::increment(&mut view, same(&bucket), "k".into(), 1).await.unwrap().unwrap_err());
    let swap = Atomics2::swap(&mut view, cas, b"8".to_vec()).await.unwrap().unwrap_err();
    assert!(matches!(swap, CasError::StoreError(draft2::Error::AccessDenied)));
    assert_eq!(Bucket2::get(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap(), Some(b"7".to_vec()));
    assert!(rig.lines.messages().iter().all(|line| line.contains("ringfence why d_")));
    // What is not granted is refused without asking.
    rig.strict.asked();
    rig.grant(&[]);
    denied(Bucket2::get(&mut view, same(&bucket), "k".into()).await.unwrap().unwrap_err());
    assert_eq!(rig.strict.asked(), []);
}
