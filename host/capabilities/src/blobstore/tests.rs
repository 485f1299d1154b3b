//! Objects as a guest uses them, through the same traits that the linker calls.

use bytes::Bytes;
use ringfence_core::Budget;
use ringfence_store::{DiskOptions, Key, Store};
use wasmtime_wasi::p2::StreamError;

use super::*;
use crate::bindings::blobstore::wasi::blobstore::blobstore::Host as Blobstore;
use crate::bindings::blobstore::wasi::blobstore::container::{HostContainer, HostStreamObjectNames};
use crate::bindings::blobstore::wasi::blobstore::types::{HostIncomingValue, HostOutgoingValue, ObjectId};
use crate::testing::{Rig, TestGuest};

const ALL: &[(Capability, &[&str])] = &[(Capability::Blob, &["*"])];

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

async fn open(guest: &mut TestGuest, name: &str) -> Resource<Container> {
    let mut view = guest.view();
    if !Blobstore::container_exists(&mut view, name.into()).await.unwrap().unwrap() {
        return Blobstore::create_container(&mut view, name.into()).await.unwrap().unwrap();
    }
    Blobstore::get_container(&mut view, name.into()).await.unwrap().unwrap()
}

fn again(handle: &Resource<Container>) -> Resource<Container> {
    Resource::new_borrow(handle.rep())
}

/// Writes as much as `bytes` and answers the value, unfinished.
async fn begin(guest: &mut TestGuest, bytes: &[u8]) -> Result<Resource<Outgoing>, String> {
    let value = HostOutgoingValue::new_outgoing_value(&mut guest.view()).await.unwrap();
    let borrow = Resource::new_borrow(value.rep());
    let stream = HostOutgoingValue::outgoing_value_write_body(&mut guest.view(), borrow).await.unwrap().unwrap();
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        let sink = guest.table.get_mut(&stream).unwrap();
        sink.ready().await;
        let permit = match sink.check_write() {
            Ok(permit) => permit,
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_string()),
            Err(error) => panic!("{error}"),
        };
        // Large objects in the pieces that the host hands on, others in smaller ones that it gathers.
        let step = if bytes.len() > 1 << 20 { permit } else { permit.min(70_000) };
        sink.write(rest.split_to(step.min(rest.len()))).unwrap();
    }
    guest.table.delete(stream).unwrap();
    Ok(value)
}

async fn write(guest: &mut TestGuest, container: &str, name: &str, bytes: &[u8]) -> Result<(), String> {
    let container = open(guest, container).await;
    let value = begin(guest, bytes).await?;
    let borrow = Resource::new_borrow(value.rep());
    HostContainer::write_data(&mut guest.view(), container, name.into(), borrow).await.unwrap()?;
    HostOutgoingValue::finish(&mut guest.view(), value).await.unwrap()
}

async fn range(guest: &mut TestGuest, container: &str, name: &str, from: u64, to: u64) -> Result<Vec<u8>, String> {
    let container = open(guest, container).await;
    let value = HostContainer::get_data(&mut guest.view(), container, name.into(), from, to).await.unwrap()?;
    let size = HostIncomingValue::size(&mut guest.view(), Resource::new_borrow(value.rep())).await.unwrap();
    let stream = HostIncomingValue::incoming_value_consume_async(&mut guest.view(), value).await.unwrap()?;
    let mut all = Vec::new();
    loop {
        let source = guest.table.get_mut(&stream).unwrap();
        source.ready().await;
        match source.read(33_333) {
            Ok(piece) => all.extend_from_slice(&piece),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    guest.table.delete(stream).unwrap();
    assert_eq!(all.len() as u64, size);
    Ok(all)
}

async fn whole(guest: &mut TestGuest, container: &str, name: &str) -> Result<Vec<u8>, String> {
    let container = open(guest, container).await;
    let value = HostContainer::get_data(&mut guest.view(), container, name.into(), 0, u64::MAX).await.unwrap()?;
    HostIncomingValue::incoming_value_consume_sync(&mut guest.view(), value).await.unwrap()
}

async fn list(guest: &mut TestGuest, container: &str, step: u64) -> Vec<String> {
    let container = open(guest, container).await;
    let names = HostContainer::list_objects(&mut guest.view(), container).await.unwrap().unwrap();
    let mut all = Vec::new();
    loop {
        let borrow = Resource::new_borrow(names.rep());
        let (page, ended) =
            HostStreamObjectNames::read_stream_object_names(&mut guest.view(), borrow, step).await.unwrap().unwrap();
        all.extend(page);
        if ended {
            all.sort();
            return all;
        }
    }
}

fn held(rig: &Rig) -> u64 {
    rig.store.held().unwrap().bytes
}

fn id(container: &str, object: &str) -> ObjectId {
    ObjectId { container: container.into(), object: object.into() }
}

#[tokio::test]
async fn an_object_is_read_whole_and_by_range_as_it_was_written() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    for length in [0, 5, 70_000, 1_500_000] {
        let bytes = content(length);
        write(&mut guest, "photos", "a", &bytes).await.unwrap();
        assert_eq!(whole(&mut guest, "photos", "a").await.unwrap(), bytes);
        assert_eq!(range(&mut guest, "photos", "a", 0, u64::MAX).await.unwrap(), bytes);
    }
    let bytes = content(1_500_000);
    for (from, to) in [(0, 0), (10, 19), (65_535, 65_536), (400_000, 900_000), (1_499_999, 1_499_999), (9, u64::MAX)] {
        let want = &bytes[from as usize..(to.min(1_499_999) + 1) as usize];
        assert_eq!(range(&mut guest, "photos", "a", from, to).await.unwrap(), want, "{from} {to}");
    }
    for (from, to) in [(1_500_000, 1_500_001), (u64::MAX, u64::MAX), (10, 9)] {
        let why = range(&mut guest, "photos", "a", from, to).await.unwrap_err();
        assert!(why.starts_with("an object of 1500000 bytes has no range"), "{why}");
    }
    assert_eq!(whole(&mut guest, "photos", "b").await.unwrap_err(), "there is no object `b`");
    let container = open(&mut guest, "photos").await;
    let info = HostContainer::object_info(&mut guest.view(), container, "a".into()).await.unwrap().unwrap();
    assert_eq!((info.size, &*info.name, &*info.container, info.created_at), (1_500_000, "a", "photos", 60));
}

#[tokio::test]
async fn a_value_that_is_dropped_or_never_named_leaves_nothing() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    let container = open(&mut guest, "photos").await;
    let before = held(&rig);
    let value = begin(&mut guest, &content(900_000)).await.unwrap();
    let borrow = Resource::new_borrow(value.rep());
    HostContainer::write_data(&mut guest.view(), again(&container), "a".into(), borrow).await.unwrap().unwrap();
    HostOutgoingValue::drop(&mut guest.view(), value).await.unwrap();
    let unnamed = begin(&mut guest, &content(900_000)).await.unwrap();
    assert!(HostOutgoingValue::finish(&mut guest.view(), unnamed).await.unwrap().is_err());
    assert!(!HostContainer::has_object(&mut guest.view(), container, "a".into()).await.unwrap().unwrap());
    assert_eq!(held(&rig), before);
}

#[tokio::test]
async fn of_two_writers_of_one_name_the_last_to_finish_wins_whole() {
    let rig = Rig::new(ALL).await;
    let (mut one, mut two) = (rig.guest(Budget::CEILING), rig.guest(Budget::CEILING));
    let (a, b) = (vec![1; 800_000], vec![2; 600_000]);
    let container = open(&mut one, "photos").await;
    let other = open(&mut two, "photos").await;
    let (first, second) = (begin(&mut one, &a).await.unwrap(), begin(&mut two, &b).await.unwrap());
    for (guest, handle, value) in [(&mut one, &container, &first), (&mut two, &other, &second)] {
        let borrow = Resource::new_borrow(value.rep());
        HostContainer::write_data(&mut guest.view(), again(handle), "a".into(), borrow).await.unwrap().unwrap();
    }
    HostOutgoingValue::finish(&mut two.view(), second).await.unwrap().unwrap();
    assert_eq!(whole(&mut one, "photos", "a").await.unwrap(), b);
    HostOutgoingValue::finish(&mut one.view(), first).await.unwrap().unwrap();
    assert_eq!(whole(&mut two, "photos", "a").await.unwrap(), a);
    assert_eq!(list(&mut one, "photos", 10).await, ["a"]);
}

#[tokio::test]
async fn a_quota_that_runs_out_in_the_middle_keeps_nothing_and_frees_the_space() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    write(&mut guest, "photos", "small", b"x").await.unwrap();
    let before = held(&rig);
    rig.store.set_held_bytes_max(before + 1_000_000);
    let why = write(&mut guest, "photos", "big", &content(3_000_000)).await.unwrap_err();
    assert!(why.contains("quota"), "{why}");
    assert_eq!(list(&mut guest, "photos", 10).await, ["small"]);
    assert_eq!(held(&rig), before);
    write(&mut guest, "photos", "fits", &content(900_000)).await.unwrap();
    let container = open(&mut guest, "photos").await;
    HostContainer::delete_object(&mut guest.view(), container, "fits".into()).await.unwrap().unwrap();
    assert_eq!(held(&rig), before);
}

#[tokio::test]
async fn every_call_asks_for_the_grant_and_streams_stop_with_it() {
    let rig = Rig::new(&[(Capability::Blob, &["photos"])]).await;
    let mut guest = rig.guest(Budget::CEILING);
    write(&mut guest, "photos", "a", &content(900_000)).await.unwrap();
    for name in ["other", "photos2", "../photos", ""] {
        assert!(Blobstore::container_exists(&mut guest.view(), name.into()).await.unwrap().is_err(), "{name}");
        assert!(Blobstore::create_container(&mut guest.view(), name.into()).await.unwrap().is_err(), "{name}");
    }
    let copied = Blobstore::copy_object(&mut guest.view(), id("photos", "a"), id("other", "a")).await.unwrap();
    assert_eq!(copied.unwrap_err(), "the container `other` is not granted");
    let container = open(&mut guest, "photos").await;
    let read = HostContainer::get_data(&mut guest.view(), again(&container), "a".into(), 0, u64::MAX).await;
    let stream =
        HostIncomingValue::incoming_value_consume_async(&mut guest.view(), read.unwrap().unwrap()).await.unwrap();
    let stream = stream.unwrap();
    let value = begin(&mut guest, b"late").await.unwrap();
    let borrow = Resource::new_borrow(value.rep());
    HostContainer::write_data(&mut guest.view(), again(&container), "b".into(), borrow).await.unwrap().unwrap();
    rig.grant(&[]);
    let source = guest.table.get_mut(&stream).unwrap();
    source.ready().await;
    assert!(matches!(source.read(9), Err(StreamError::LastOperationFailed(_))));
    assert!(HostOutgoingValue::finish(&mut guest.view(), value).await.unwrap().is_err());
    assert!(HostContainer::has_object(&mut guest.view(), container, "a".into()).await.unwrap().is_err());
}

#[tokio::test]
async fn plugins_of_one_tenant_do_not_see_each_others_containers() {
    let rig = Rig::new(ALL).await;
    let (mut one, mut two) = (rig.guest_of("album", Budget::CEILING), rig.guest_of("visits", Budget::CEILING));
    write(&mut one, "photos", "a", b"mine").await.unwrap();
    assert!(!Blobstore::container_exists(&mut two.view(), "photos".into()).await.unwrap().unwrap());
    assert_eq!(whole(&mut two, "photos", "a").await.unwrap_err(), "there is no object `a`");
}

#[tokio::test]
async fn listing_in_any_step_and_skipping_name_every_object_once() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    let mut names: Vec<String> = (0..25).map(|n| format!("object {n}/ä")).collect();
    for name in &names {
        write(&mut guest, "photos", name, b"x").await.unwrap();
    }
    names.sort();
    for step in [1, 7, 25, 26, u64::MAX] {
        assert_eq!(list(&mut guest, "photos", step).await, names, "{step}");
    }
    let container = open(&mut guest, "photos").await;
    let stream = HostContainer::list_objects(&mut guest.view(), again(&container)).await.unwrap().unwrap();
    let borrow = || Resource::new_borrow(stream.rep());
    let skip = HostStreamObjectNames::skip_stream_object_names(&mut guest.view(), borrow(), 20).await.unwrap().unwrap();
    assert_eq!(skip, (20, false));
    let rest = HostStreamObjectNames::read_stream_object_names(&mut guest.view(), borrow(), 99).await.unwrap().unwrap();
    assert_eq!((rest.0.len(), rest.1), (5, true));
    let gone = vec![names[0].clone(), "never there".to_owned()];
    HostContainer::delete_objects(&mut guest.view(), container, gone).await.unwrap().unwrap();
    assert_eq!(list(&mut guest, "photos", 99).await, names[1..]);
}

#[tokio::test]
async fn a_container_is_cleared_and_deleted_with_all_it_holds_and_none_of_it_comes_back() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    let container = open(&mut guest, "photos").await;
    let empty = held(&rig);
    write(&mut guest, "photos", "a", &content(90_000)).await.unwrap();
    write(&mut guest, "photos", "b", b"x").await.unwrap();
    // A write that began before the clearing does not survive it, and the open handle goes on.
    HostContainer::clear(&mut guest.view(), again(&container)).await.unwrap().unwrap();
    assert_eq!((list(&mut guest, "photos", 9).await.len(), held(&rig)), (0, empty));
    write(&mut guest, "photos", "a", b"again").await.unwrap();
    Blobstore::delete_container(&mut guest.view(), "photos".into()).await.unwrap().unwrap();
    assert_eq!(held(&rig), 0);
    let info = HostContainer::info(&mut guest.view(), container).await.unwrap();
    assert_eq!(info.unwrap_err(), "there is no container `photos`");
    assert!(Blobstore::delete_container(&mut guest.view(), "photos".into()).await.unwrap().is_err());
    open(&mut guest, "photos").await;
    assert!(list(&mut guest, "photos", 9).await.is_empty());
    let twice = Blobstore::create_container(&mut guest.view(), "photos".into()).await.unwrap();
    assert_eq!(twice.unwrap_err(), "there is already a container `photos`");
}

#[tokio::test]
async fn bytes_whose_record_was_taken_out_go_with_their_container() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    for name in ["a", "b"] {
        write(&mut guest, "photos", name, &content(90_000)).await.unwrap();
    }
    let number = guest.bound.shelf().container(&"photos".parse().unwrap()).await.unwrap().record.number;
    rig.store.delete(&Key::new(["blob", "visits", "object"]).number(number).push("a")).await.unwrap();
    Blobstore::delete_container(&mut guest.view(), "photos".into()).await.unwrap().unwrap();
    assert_eq!(held(&rig), 0);
}

#[tokio::test]
async fn a_write_does_not_survive_the_clearing_of_its_container() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    let name: ResourceName = "photos".parse().unwrap();
    let container = open(&mut guest, "photos").await;
    let bound = &guest.bound;
    let found = bound.shelf().container(&name).await.unwrap();
    let mut writer = rig.store.value_writer().unwrap();
    writer.write(Bytes::from(content(90_000))).await.unwrap();
    let staged = writer.finish().await.unwrap();
    HostContainer::clear(&mut guest.view(), container).await.unwrap().unwrap();
    let before = held(&rig);
    let other = Key::new(["blob", "visits", "content"]).number(found.record.number).push("a");
    let late = rig.store.batch_with(Vec::new(), vec![(other, staged)], vec![found.unchanged()]).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })));
    assert_eq!(held(&rig), before);
}

#[tokio::test]
async fn a_removal_that_was_cut_short_goes_on_with_the_next() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    for container in ["photos", "films"] {
        write(&mut guest, container, "a", &content(90_000)).await.unwrap();
    }
    let name: ResourceName = "photos".parse().unwrap();
    let stop = || Err(BlobError::Said("stop".to_owned()));
    assert!(guest.bound.shelf().delete(&name, &stop).await.is_err());
    assert!(!Blobstore::container_exists(&mut guest.view(), "photos".into()).await.unwrap().unwrap());
    assert!(held(&rig) > 180_000, "what is not removed yet counts");
    Blobstore::delete_container(&mut guest.view(), "films".into()).await.unwrap().unwrap();
    assert_eq!(held(&rig), 0);
}

#[tokio::test]
async fn copies_and_moves_are_whole_and_overwrite() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    let bytes = content(700_000);
    write(&mut guest, "photos", "a", &bytes).await.unwrap();
    write(&mut guest, "films", "b", b"old").await.unwrap();
    let copy = |from, to| (id("photos", from), id("films", to));
    let (from, to) = copy("a", "b");
    Blobstore::copy_object(&mut guest.view(), from, to).await.unwrap().unwrap();
    assert_eq!(whole(&mut guest, "films", "b").await.unwrap(), bytes);
    let before = held(&rig);
    let (from, to) = copy("a", "c");
    Blobstore::move_object(&mut guest.view(), from, to).await.unwrap().unwrap();
    assert_eq!((list(&mut guest, "photos", 9).await.len(), list(&mut guest, "films", 9).await.len()), (0, 2));
    assert_eq!(whole(&mut guest, "films", "c").await.unwrap(), bytes);
    assert_eq!(held(&rig), before);
    Blobstore::move_object(&mut guest.view(), id("films", "c"), id("films", "c")).await.unwrap().unwrap();
    assert_eq!(whole(&mut guest, "films", "c").await.unwrap(), bytes);
    for (from, to) in [(id("films", "x"), id("photos", "x")), (id("films", "c"), id("none", "x"))] {
        assert!(Blobstore::copy_object(&mut guest.view(), from, to).await.unwrap().is_err());
    }
}

#[tokio::test]
async fn open_objects_are_limited_and_host_calls_and_bytes_are_counted() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    write(&mut guest, "photos", "a", &content(4 << 20)).await.unwrap();
    let usage = guest.bound.meter.usage();
    assert!(usage.storage_ops_count >= 4 + 3 && usage.host_calls_count >= 4 + 4, "{usage:?}");
    let container = open(&mut guest, "photos").await;
    let mut opened = Vec::new();
    for _ in 0..BLOB_STREAMS_COUNT_MAX {
        let got = HostContainer::get_data(&mut guest.view(), again(&container), "a".into(), 0, 9).await.unwrap();
        opened.push(got.unwrap());
    }
    let more = HostContainer::get_data(&mut guest.view(), again(&container), "a".into(), 0, 9).await.unwrap();
    assert_eq!(more.unwrap_err(), "at most 16 objects can be open at once");
    HostIncomingValue::drop(&mut guest.view(), opened.remove(0)).await.unwrap();
    assert!(HostContainer::get_data(&mut guest.view(), again(&container), "a".into(), 0, 9).await.unwrap().is_ok());
    for name in ["", &"x".repeat(BLOB_NAME_BYTES_MAX + 1)] {
        assert!(HostContainer::has_object(&mut guest.view(), again(&container), name.into()).await.unwrap().is_err());
    }
    let few = Budget { host_calls_count: 10, ..Budget::CEILING };
    let mut guest = rig.guest(few);
    for _ in 0..10 {
        assert!(Blobstore::container_exists(&mut guest.view(), "photos".into()).await.unwrap().is_ok());
    }
    assert!(Blobstore::container_exists(&mut guest.view(), "photos".into()).await.is_err());
}

#[test]
fn a_stream_that_was_dropped_is_counted_until_nothing_of_it_is_written_any_more() {
    // One thread for blocking work, which takes it in order.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::CEILING);
        let places = Arc::clone(&guest.bound.blob_streams);
        let (release, is_held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || is_held.recv().is_ok());
        let value = begin(&mut guest, &content(256 << 10)).await.unwrap();
        HostOutgoingValue::drop(&mut guest.view(), value).await.unwrap();
        assert_eq!(places.available_permits(), BLOB_STREAMS_COUNT_MAX - 1, "its piece still waits to be sealed");
        drop(release);
        holding.await.unwrap();
        // Behind it in the order.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert_eq!(places.available_permits(), BLOB_STREAMS_COUNT_MAX);
    });
}

#[tokio::test]
async fn ten_thousand_containers_are_as_quick_to_find_and_to_delete_as_one() {
    let rig = Rig::new(ALL).await;
    let guest = rig.guest(Budget::CEILING);
    let shelf = guest.bound.shelf();
    for n in 0..10_000 {
        shelf.create(&format!("c{n}").parse().unwrap()).await.unwrap();
    }
    let name: ResourceName = "c7777".parse().unwrap();
    assert!(shelf.find(&name).await.unwrap().is_some());
    shelf.delete(&name, &|| Ok(())).await.unwrap();
    assert!(shelf.find(&name).await.unwrap().is_none());
    assert!(shelf.find(&"c7778".parse().unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn policy_is_asked_at_every_call_with_the_objects_name_also_of_streams_that_are_open() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    write(&mut guest, "album", "a/1", &content(100_000)).await.unwrap();
    let container = open(&mut guest, "album").await;
    let whole =
        HostContainer::get_data(&mut guest.view(), again(&container), "a/1".into(), 0, 9).await.unwrap().unwrap();
    let value = HostContainer::get_data(&mut guest.view(), again(&container), "a/1".into(), 0, 99_999).await;
    let value = value.unwrap().unwrap();
    let stream = HostIncomingValue::incoming_value_consume_async(&mut guest.view(), value).await.unwrap().unwrap();
    rig.strict.asked();

    rig.strict.forbid(&[HostAct::ReadObject, HostAct::ListObjects]);
    let source = guest.table.get_mut(&stream).unwrap();
    assert!(source.read(10).unwrap_err().to_string().contains("policy"), "an open stream is stopped");
    guest.table.delete(stream).unwrap();
    let no = |why: String| assert!(why.starts_with("policy forbids `"), "{why}");
    let mut view = guest.view();
    no(HostIncomingValue::incoming_value_consume_sync(&mut view, whole).await.unwrap().unwrap_err());
    no(HostContainer::has_object(&mut view, again(&container), "a/1".into()).await.unwrap().unwrap_err());
    no(HostContainer::object_info(&mut view, again(&container), "a/1".into()).await.unwrap().unwrap_err());
    no(HostContainer::get_data(&mut view, again(&container), "a/1".into(), 0, 9).await.unwrap().unwrap_err());
    no(HostContainer::list_objects(&mut view, again(&container)).await.unwrap().unwrap_err());
    let id = |object: &str| ObjectId { container: "album".into(), object: object.into() };
    no(Blobstore::copy_object(&mut view, id("a/1"), id("b")).await.unwrap().unwrap_err());
    let asked = rig.strict.asked();
    let read = asked.iter().filter(|(act, _)| *act == HostAct::ReadObject);
    assert!(read.clone().count() == 6 && read.clone().all(|(_, on)| on == "album a/1"), "{asked:?}");

    rig.strict.forbid(&[HostAct::WriteObject, HostAct::DeleteObject]);
    no(write(&mut guest, "album", "a/2", b"x").await.unwrap_err());
    let mut view = guest.view();
    no(HostContainer::delete_object(&mut view, again(&container), "a/1".into()).await.unwrap().unwrap_err());
    no(HostContainer::clear(&mut view, again(&container)).await.unwrap().unwrap_err());
    no(Blobstore::delete_container(&mut view, "album".into()).await.unwrap().unwrap_err());
    no(Blobstore::create_container(&mut view, "other".into()).await.unwrap().unwrap_err());
    no(Blobstore::copy_object(&mut view, id("a/1"), id("b")).await.unwrap().unwrap_err());
    rig.strict.forbid(&[HostAct::DeleteObject]);
    no(Blobstore::move_object(&mut view, id("a/1"), id("b")).await.unwrap().unwrap_err());
    assert_eq!(range(&mut guest, "album", "a/1", 0, 9).await.unwrap(), content(10));
}

#[tokio::test]
async fn asking_for_an_object_that_is_bait_is_told_and_having_one_is_not() {
    let rig = Rig::new(ALL).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let container = open(&mut guest, "album").await;
    let mut view = guest.view();
    assert!(!HostContainer::has_object(&mut view, again(&container), ".env".into()).await.unwrap().unwrap());
    HostContainer::get_data(&mut view, again(&container), "keys/id_rsa".into(), 0, 9).await.unwrap().unwrap_err();
    HostContainer::get_data(&mut view, again(&container), "a/1".into(), 0, 9).await.unwrap().unwrap_err();
    let canary = |name: &str| crate::Tried::Canary { kind: "object", name: name.to_owned() };
    assert_eq!(rig.sworn.tried(), [canary(".env"), canary("id_rsa")]);
    // One of its own is no bait.
    write(&mut guest, "album", ".env", b"x").await.unwrap();
    assert_eq!(range(&mut guest, "album", ".env", 0, 0).await.unwrap(), b"x");
    assert_eq!(rig.sworn.tried().len(), 2);
}

#[tokio::test]
async fn an_object_that_is_there_and_cannot_be_opened_is_no_bait() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions { cache_bytes: 4 << 20, free_bytes_min: 1 << 20, ..DiskOptions::RECOMMENDED };
    let rig = Rig::over(Store::open(&dir.path().join("data"), options).unwrap(), ALL).await;
    let mut guest = rig.guest(Budget::CEILING);
    write(&mut guest, "album", ".env", &content(300_000)).await.unwrap();
    let values = dir.path().join("data/blobs").join(rig.store.uid()).join("values");
    for entry in std::fs::read_dir(values).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(whole(&mut guest, "album", ".env").await.unwrap_err(), "the store is unavailable");
    let mut view = guest.view();
    let copied = Blobstore::copy_object(&mut view, id("album", ".env"), id("album", "copy")).await.unwrap();
    assert_eq!(copied.unwrap_err(), "the store is unavailable");
    assert!(rig.sworn.tried().is_empty());
}
