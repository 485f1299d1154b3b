//! The directory as a guest uses it: against a plain model, by hostile paths, under quota, by several at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use ringfence_core::Budget;
use ringfence_engine::Meter;
use ringfence_store::{DiskOptions, Key, Store};

use super::tree::{Create, ROOT, Refused, TRANSFER_BYTES_MAX};
use super::*;
use crate::bindings::filesystem::wasi::filesystem::preopens::Host as Preopens;
use crate::bindings::filesystem::wasi::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor, OpenFlags, PathFlags,
};
use crate::testing::{Rig, TestGuest};

const GRANTED: &[(Capability, &[&str])] = &[(Capability::Files, &[])];
const PIECE: u64 = 64 << 10;

async fn tree() -> (Rig, Tree) {
    let rig = Rig::new(GRANTED).await;
    let tree = rig.guest(Budget::CEILING).bound.tree();
    (rig, tree)
}

async fn write(tree: &Tree, path: &str, content: &[u8]) -> Result<(), Refused> {
    let (node, _) = tree.open(ROOT, path, Create::IfAbsent).await?;
    tree.set_bytes(node, 0).await?;
    let mut at = 0;
    for part in content.chunks(TRANSFER_BYTES_MAX) {
        at = tree.write(node, Some(at), part).await?;
    }
    Ok(())
}

async fn read(tree: &Tree, path: &str) -> Result<Vec<u8>, Refused> {
    let (node, _) = tree.open(ROOT, path, Create::Never).await?;
    let mut all = Vec::new();
    loop {
        let part = tree.read(node, all.len() as u64, 99_999).await?;
        if part.is_empty() {
            return Ok(all);
        }
        all.extend(part);
    }
}

async fn names(tree: &Tree, path: &str) -> Vec<String> {
    let (node, _) = tree.follow(ROOT, path).await.unwrap().node().unwrap();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = tree.list(node, after.as_ref(), 3).await.unwrap();
        all.extend(page.into_iter().map(|(name, _)| name));
        after = next;
        if after.is_none() {
            all.sort();
            return all;
        }
    }
}

fn held(rig: &Rig) -> u64 {
    rig.store.held().unwrap().bytes
}

#[tokio::test]
async fn content_survives_at_and_around_the_borders_of_pieces() {
    let (rig, tree) = tree().await;
    for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7, 2_500_000] {
        let content: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        write(&tree, "a", &content).await.unwrap();
        assert_eq!(read(&tree, "a").await.unwrap(), content, "{length}");
    }
    tree.remove_file(ROOT, "a").await.unwrap();
    let left = rig.store.scan(&Key::new(["file", "visits", "piece"]), None, 9).await.unwrap();
    assert!(left.records.is_empty());
}

#[tokio::test]
async fn holes_and_cuts_read_as_zeros_and_nothing_old_comes_back() {
    let (_rig, tree) = tree().await;
    write(&tree, "a", &vec![7; 200_000]).await.unwrap();
    let (node, _) = tree.open(ROOT, "a", Create::Never).await.unwrap();
    tree.set_bytes(node, 70_001).await.unwrap();
    tree.set_bytes(node, 150_000).await.unwrap();
    let mut want = vec![7; 70_001];
    want.resize(150_000, 0);
    assert_eq!(read(&tree, "a").await.unwrap(), want);
    tree.write(node, Some(300_000), b"end").await.unwrap();
    want.resize(300_000, 0);
    want.extend(b"end");
    assert_eq!(read(&tree, "a").await.unwrap(), want);
    assert_eq!(tree.write(node, None, b"!").await.unwrap(), 300_004);
    assert_eq!(tree.write(node, Some(u64::MAX), b"x").await, Err(Refused::TooLarge));
    assert_eq!(tree.set_bytes(node, u64::MAX).await, Err(Refused::TooLarge));
    // A huge file of zeros costs nothing, and cutting it takes many small steps.
    tree.set_bytes(node, 1 << 32).await.unwrap();
    assert_eq!(tree.read(node, (1 << 32) - 4, 99).await.unwrap(), [0; 4]);
    tree.set_bytes(node, 3).await.unwrap();
    assert_eq!(read(&tree, "a").await.unwrap(), [7; 3]);
}

#[tokio::test]
async fn no_path_leads_out_and_no_link_can_be_made() {
    let (_rig, tree) = tree().await;
    tree.make_directory(ROOT, "d").await.unwrap();
    write(&tree, "d/f", b"x").await.unwrap();
    let (d, _) = tree.follow(ROOT, "d").await.unwrap().node().unwrap();
    for (base, path) in [
        (ROOT, ".."),
        (ROOT, "../x"),
        (ROOT, "/etc/passwd"),
        (ROOT, "d/../../x"),
        (ROOT, "d/.././../x"),
        (d, ".."),
        (d, "../d/f"),
        (d, "./.."),
    ] {
        assert_eq!(tree.open(base, path, Create::IfAbsent).await, Err(Refused::NotPermitted), "{path}");
        assert_eq!(tree.make_directory(base, path).await, Err(Refused::NotPermitted), "{path}");
        assert_eq!(tree.remove_file(base, path).await, Err(Refused::NotPermitted), "{path}");
        assert_eq!(tree.rename((ROOT, "d/f"), (base, path)).await, Err(Refused::NotPermitted), "{path}");
    }
    for (path, refused) in [
        ("", Refused::NoEntry),
        ("d/f/", Refused::NotDirectory),
        ("d/f/..", Refused::NotDirectory),
        ("d/f/g", Refused::NotDirectory),
        ("none/../d/f", Refused::NoEntry),
        ("a\0b", Refused::Sequence),
        (&"n".repeat(256), Refused::NameTooLong),
        (&"n/".repeat(3_000), Refused::NameTooLong),
    ] {
        assert_eq!(tree.open(ROOT, path, Create::IfAbsent).await.unwrap_err(), refused, "{path}");
    }
    for path in ["d/f", "./d/./f", "d//f", "d/../d/f", "d/../d/../d/f"] {
        assert_eq!(read(&tree, path).await.unwrap(), b"x", "{path}");
    }
    assert_eq!(tree.remove_directory(ROOT, ".").await, Err(Refused::Invalid));
    assert_eq!(tree.rename((ROOT, "."), (ROOT, "e")).await, Err(Refused::Invalid));
}

#[tokio::test]
async fn links_are_refused_through_the_interface() {
    let rig = Rig::new(GRANTED).await;
    let mut guest = rig.guest(Budget::CEILING);
    let root = root(&mut guest).await.unwrap();
    open(&mut guest, &root, "a", OpenFlags::CREATE).await.unwrap();
    let at = || Resource::new_borrow(root.rep());
    let hard = guest.view().link_at(at(), PathFlags::empty(), "a".into(), at(), "b".into()).await.unwrap();
    let soft = HostDescriptor::symlink_at(&mut guest.view(), at(), "/etc/passwd".into(), "b".into()).await.unwrap();
    let read = HostDescriptor::readlink_at(&mut guest.view(), at(), "a".into()).await.unwrap();
    assert_eq!(
        (hard, soft, read),
        (Err(ErrorCode::NotPermitted), Err(ErrorCode::Unsupported), Err(ErrorCode::Invalid))
    );
    assert_eq!(open(&mut guest, &root, "b", OpenFlags::empty()).await.unwrap_err(), ErrorCode::NoEntry);
}

#[tokio::test]
async fn directories_are_made_renamed_and_removed_by_the_rules() {
    let (rig, tree) = tree().await;
    for path in ["a", "a/b", "a/b/c", "e"] {
        tree.make_directory(ROOT, path).await.unwrap();
    }
    write(&tree, "a/f", b"one").await.unwrap();
    write(&tree, "g", b"two").await.unwrap();
    assert_eq!(tree.make_directory(ROOT, "a").await, Err(Refused::Exists));
    assert_eq!(tree.make_directory(ROOT, "g").await, Err(Refused::Exists));
    assert_eq!(tree.remove_directory(ROOT, "a").await, Err(Refused::NotEmpty));
    assert_eq!(tree.remove_directory(ROOT, "g").await, Err(Refused::NotDirectory));
    assert_eq!(tree.remove_file(ROOT, "a").await, Err(Refused::IsDirectory));
    assert_eq!(tree.remove_file(ROOT, "none").await, Err(Refused::NoEntry));
    for (from, to, refused) in [
        ("a", "a/b/c/d", Refused::Invalid),
        ("a", "a/x", Refused::Invalid),
        ("a", "g", Refused::NotDirectory),
        ("g", "a", Refused::IsDirectory),
        ("e", "a", Refused::NotEmpty),
        ("none", "x", Refused::NoEntry),
        ("g", "none/x", Refused::NoEntry),
        ("g", "x/", Refused::NotDirectory),
    ] {
        assert_eq!(tree.rename((ROOT, from), (ROOT, to)).await, Err(refused), "{from} {to}");
    }
    tree.rename((ROOT, "g"), (ROOT, "a/f")).await.unwrap();
    assert_eq!(read(&tree, "a/f").await.unwrap(), b"two");
    tree.rename((ROOT, "a/b"), (ROOT, "e")).await.unwrap();
    tree.rename((ROOT, "a/f"), (ROOT, "a/f")).await.unwrap();
    assert_eq!(
        (names(&tree, ".").await, names(&tree, "a").await, names(&tree, "e").await),
        (vec!["a".to_owned(), "e".to_owned()], vec!["f".to_owned()], vec!["c".to_owned()])
    );
    tree.remove_file(ROOT, "a/f").await.unwrap();
    for path in ["a", "e/c", "e"] {
        tree.remove_directory(ROOT, path).await.unwrap();
    }
    let root_only = held(&rig);
    assert!(root_only < 400, "{root_only}");
}

#[tokio::test]
async fn of_two_renames_that_would_make_a_circle_one_is_refused() {
    let (_rig, tree) = tree().await;
    for _ in 0..20 {
        for path in ["a", "b"] {
            tree.make_directory(ROOT, path).await.unwrap();
        }
        let (one, two) = (tree.clone(), tree.clone());
        let one = tokio::spawn(async move { one.rename((ROOT, "a"), (ROOT, "b/a")).await });
        let two = tokio::spawn(async move { two.rename((ROOT, "b"), (ROOT, "a/b")).await });
        let done = [one.await.unwrap(), two.await.unwrap()];
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
        let (outer, inner) = if done[0].is_ok() { ("b", "b/a") } else { ("a", "a/b") };
        tree.remove_directory(ROOT, inner).await.unwrap();
        tree.remove_directory(ROOT, outer).await.unwrap();
    }
}

#[tokio::test]
async fn writers_at_once_lose_nothing_and_a_directory_does_not_go_from_under_a_new_file() {
    let (_rig, tree) = tree().await;
    let (node, _) = tree.open(ROOT, "log", Create::IfAbsent).await.unwrap();
    let writers: Vec<_> = (0..8_u8)
        .map(|n| {
            let tree = tree.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    tree.write(node, None, &[n; 100]).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let content = read(&tree, "log").await.unwrap();
    assert_eq!(content.len(), 8 * 5 * 100);
    assert!(content.chunks(100).all(|line| line.iter().all(|byte| *byte == line[0])));
    for _ in 0..20 {
        tree.make_directory(ROOT, "d").await.unwrap();
        let (one, two) = (tree.clone(), tree.clone());
        let made = tokio::spawn(async move { one.open(ROOT, "d/f", Create::Always).await });
        let gone = tokio::spawn(async move { two.remove_directory(ROOT, "d").await });
        let (made, gone) = (made.await.unwrap(), gone.await.unwrap());
        assert!(made.is_ok() != gone.is_ok(), "{made:?} {gone:?}");
        if made.is_ok() {
            tree.remove_file(ROOT, "d/f").await.unwrap();
            tree.remove_directory(ROOT, "d").await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_quota_refuses_growth_and_removal_frees_it() {
    let (rig, tree) = tree().await;
    write(&tree, "a", b"x").await.unwrap();
    let before = held(&rig);
    rig.store.set_held_bytes_max(before + 300_000);
    assert_eq!(write(&tree, "b", &vec![1; 900_000]).await, Err(Refused::Quota));
    write(&tree, "b", &vec![1; 200_000]).await.unwrap();
    assert_eq!(write(&tree, "c", &vec![1; 200_000]).await, Err(Refused::Quota));
    tree.remove_file(ROOT, "b").await.unwrap();
    tree.remove_file(ROOT, "c").await.unwrap();
    assert_eq!(held(&rig), before);
}

#[tokio::test]
async fn a_file_without_a_name_is_gone_for_those_too_who_have_it_open() {
    let (_rig, tree) = tree().await;
    write(&tree, "a", b"x").await.unwrap();
    let (node, _) = tree.open(ROOT, "a", Create::Never).await.unwrap();
    tree.remove_file(ROOT, "a").await.unwrap();
    assert_eq!(tree.read(node, 0, 9).await, Err(Refused::NoEntry));
    assert_eq!(tree.write(node, None, b"y").await, Err(Refused::NoEntry));
}

#[tokio::test]
async fn a_piece_that_does_not_open_any_more_goes_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions { cache_bytes: 4 << 20, free_bytes_min: 1 << 20, ..DiskOptions::RECOMMENDED };
    let rig = Rig::over(Store::open(&dir.path().join("data"), options).unwrap(), GRANTED).await;
    let tree = rig.guest(Budget::CEILING).bound.tree();
    write(&tree, "a", b"x").await.unwrap();
    let (node, _) = tree.open(ROOT, "a", Create::Never).await.unwrap();
    // Longer than pieces are, so that it lies where it can be damaged.
    let piece = Key::new(["file", "visits", "piece"]).number(node).number(7);
    rig.store.put(&piece, vec![7; 100_000]).await.unwrap();
    let values = dir.path().join("data/blobs").join(rig.store.uid()).join("values");
    for entry in std::fs::read_dir(values).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5_000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(rig.store.get(&piece).await.is_err());
    tree.remove_file(ROOT, "a").await.unwrap();
    for area in ["piece", "gone"] {
        let (left, _) = rig.store.scan_names(&Key::new(["file", "visits", area]), None, 9).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Waits until nothing of the guest's memory is held beyond what was: what is held is held with its meter.
async fn let_go(meter: &Arc<Meter>, before: usize) {
    let waiting = async {
        while Arc::strong_count(meter) > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_was_dropped_is_counted_until_nothing_of_it_is_on_its_way_any_more() {
    let rig = Rig::new(GRANTED).await;
    let mut guest = rig.guest(Budget::CEILING);
    let root = root(&mut guest).await.unwrap();
    let file = open(&mut guest, &root, "a", OpenFlags::CREATE).await.unwrap();
    let handle = || Resource::new_borrow(file.rep());
    let meter = Arc::clone(&guest.bound.meter);
    let before = Arc::strong_count(&meter);
    // The test's one thread begins with neither piece before it waits for something.
    let stream = HostDescriptor::read_via_stream(&mut guest.view(), handle(), 0).await.unwrap().unwrap();
    let mut stream = guest.table.delete(stream).unwrap();
    assert!(stream.read(9).unwrap().is_empty());
    drop(stream);
    assert_eq!(Arc::strong_count(&meter), before + 1, "its piece is still to be read");
    let_go(&meter, before).await;
    let stream = HostDescriptor::write_via_stream(&mut guest.view(), handle(), 0).await.unwrap().unwrap();
    let mut stream = guest.table.delete(stream).unwrap();
    stream.write(Bytes::from_static(b"x")).unwrap();
    drop(stream);
    assert_eq!(Arc::strong_count(&meter), before + 1, "its piece is still to be written");
    let_go(&meter, before).await;
    let read = HostDescriptor::read(&mut guest.view(), handle(), 9, 0).await.unwrap();
    assert_eq!(read, Ok((b"x".to_vec(), false)));
}

async fn root(guest: &mut TestGuest) -> Option<Resource<Descriptor>> {
    Preopens::get_directories(&mut guest.view()).await.unwrap().pop().map(|(root, _)| root)
}

async fn open(
    guest: &mut TestGuest,
    root: &Resource<Descriptor>,
    path: &str,
    how: OpenFlags,
) -> Result<Resource<Descriptor>, ErrorCode> {
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    guest.view().open_at(Resource::new_borrow(root.rep()), PathFlags::empty(), path.into(), how, flags).await.unwrap()
}

#[tokio::test]
async fn without_the_grant_there_is_no_directory_and_a_revoked_one_is_closed_at_once() {
    let rig = Rig::new(GRANTED).await;
    let mut guest = rig.guest(Budget::CEILING);
    let root = root(&mut guest).await.unwrap();
    let file = open(&mut guest, &root, "a", OpenFlags::CREATE).await.unwrap();
    let handle = || Resource::new_borrow(file.rep());
    assert_eq!(HostDescriptor::write(&mut guest.view(), handle(), b"x".to_vec(), 0).await.unwrap(), Ok(1));
    let stream = HostDescriptor::write_via_stream(&mut guest.view(), handle(), 1).await.unwrap().unwrap();
    rig.grant(&[]);
    assert_eq!(
        HostDescriptor::write(&mut guest.view(), handle(), b"x".to_vec(), 0).await.unwrap(),
        Err(ErrorCode::Access)
    );
    assert_eq!(HostDescriptor::read(&mut guest.view(), handle(), 9, 0).await.unwrap(), Err(ErrorCode::Access));
    let at = Resource::new_borrow(root.rep());
    let closed = HostDescriptor::stat_at(&mut guest.view(), at, PathFlags::empty(), "a".into()).await.unwrap();
    assert!(matches!(closed, Err(ErrorCode::Access)));
    assert!(guest.table.get_mut(&stream).unwrap().write(bytes::Bytes::from_static(b"y")).is_err());
    assert!(Preopens::get_directories(&mut guest.view()).await.unwrap().is_empty());
    rig.grant(GRANTED);
    assert_eq!(HostDescriptor::read(&mut guest.view(), handle(), 9, 0).await.unwrap(), Ok((b"x".to_vec(), false)));
}

#[tokio::test]
async fn what_was_opened_to_read_cannot_be_written_and_plugins_do_not_see_each_other() {
    let rig = Rig::new(GRANTED).await;
    let mut guest = rig.guest_of("album", Budget::CEILING);
    let top = root(&mut guest).await.unwrap();
    open(&mut guest, &top, "a", OpenFlags::CREATE).await.unwrap();
    let at = Resource::new_borrow(top.rep());
    let read_only =
        guest.view().open_at(at, PathFlags::empty(), "a".into(), OpenFlags::empty(), DescriptorFlags::READ).await;
    let file = read_only.unwrap().unwrap();
    let handle = || Resource::new_borrow(file.rep());
    let refused = Err(ErrorCode::NotPermitted);
    assert_eq!(HostDescriptor::write(&mut guest.view(), handle(), b"x".to_vec(), 0).await.unwrap(), refused);
    assert_eq!(HostDescriptor::set_size(&mut guest.view(), handle(), 0).await.unwrap(), Err(ErrorCode::NotPermitted));
    assert!(guest.view().append_via_stream(handle()).await.unwrap().is_err());
    assert!(guest.view().read_directory(handle()).await.unwrap().is_err());
    let mut other = rig.guest_of("visits", Budget::CEILING);
    let other_root = root(&mut other).await.unwrap();
    assert_eq!(open(&mut other, &other_root, "a", OpenFlags::empty()).await.unwrap_err(), ErrorCode::NoEntry);
}

#[derive(Debug, Clone)]
enum Act {
    Write(u8, u64, usize, u8),
    Append(u8, usize, u8),
    Cut(u8, u64),
    Remove(u8),
    Rename(u8, u8),
}

fn act() -> impl Strategy<Value = Act> {
    let file = 0_u8..4;
    prop_oneof![
        (file.clone(), 0_u64..200_000, 0_usize..150_000, any::<u8>()).prop_map(|(f, at, n, b)| Act::Write(f, at, n, b)),
        (file.clone(), 0_usize..100_000, any::<u8>()).prop_map(|(f, n, b)| Act::Append(f, n, b)),
        (file.clone(), 0_u64..250_000).prop_map(|(f, n)| Act::Cut(f, n)),
        file.clone().prop_map(Act::Remove),
        (file.clone(), file).prop_map(|(a, b)| Act::Rename(a, b)),
    ]
}

async fn agrees_with_a_model(acts: Vec<Act>) {
    let (rig, tree) = tree().await;
    let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let path = |file: u8| format!("f{file}");
    for act in acts {
        match act {
            Act::Write(file, at, count, byte) => {
                let (node, _) = tree.open(ROOT, &path(file), Create::IfAbsent).await.unwrap();
                tree.write(node, Some(at), &vec![byte; count]).await.unwrap();
                let content = model.entry(file).or_default();
                let end = at as usize + count;
                if count > 0 {
                    content.resize(content.len().max(end), 0);
                    content[at as usize..end].fill(byte);
                }
            }
            Act::Append(file, count, byte) => {
                let (node, _) = tree.open(ROOT, &path(file), Create::IfAbsent).await.unwrap();
                tree.write(node, None, &vec![byte; count]).await.unwrap();
                let content = model.entry(file).or_default();
                content.resize(content.len() + count, byte);
            }
            Act::Cut(file, bytes) => {
                let (node, _) = tree.open(ROOT, &path(file), Create::IfAbsent).await.unwrap();
                tree.set_bytes(node, bytes).await.unwrap();
                model.entry(file).or_default().resize(bytes as usize, 0);
            }
            Act::Remove(file) => {
                assert_eq!(tree.remove_file(ROOT, &path(file)).await.is_ok(), model.remove(&file).is_some());
            }
            Act::Rename(from, to) => {
                let renamed = tree.rename((ROOT, &path(from)), (ROOT, &path(to))).await;
                assert_eq!(renamed.is_ok(), model.contains_key(&from));
                if let Some(content) = model.remove(&from) {
                    model.insert(to, content);
                }
            }
        }
    }
    assert_eq!(names(&tree, ".").await, model.keys().map(|file| path(*file)).collect::<Vec<_>>());
    for (file, content) in &model {
        assert!(read(&tree, &path(*file)).await.unwrap() == *content, "f{file}");
        tree.remove_file(ROOT, &path(*file)).await.unwrap();
    }
    assert!(held(&rig) < 400, "nothing is left behind but the root");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sequence_of_acts_leaves_what_a_plain_model_has(acts in prop::collection::vec(act(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(agrees_with_a_model(acts));
    }
}

#[tokio::test]
async fn policy_is_asked_at_every_call_for_reading_or_for_changing_also_of_streams_that_are_open() {
    let rig = Rig::new(GRANTED).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let mut view = guest.view();
    let root = Preopens::get_directories(&mut view).await.unwrap().remove(0).0;
    let again = |handle: &Resource<Descriptor>| Resource::new_borrow(handle.rep());
    let (flags, create) = (DescriptorFlags::READ | DescriptorFlags::WRITE, OpenFlags::CREATE);
    let open = HostDescriptor::open_at(&mut view, again(&root), PathFlags::empty(), "a".into(), create, flags).await;
    let file = open.unwrap().unwrap();
    let stream = HostDescriptor::read_via_stream(&mut view, again(&file), 0).await.unwrap().unwrap();
    rig.strict.asked();

    rig.strict.forbid(&[HostAct::WriteFile]);
    let no = |code: ErrorCode| assert_eq!(code, ErrorCode::Access);
    no(HostDescriptor::write(&mut view, again(&file), b"x".to_vec(), 0).await.unwrap().unwrap_err());
    no(HostDescriptor::set_size(&mut view, again(&file), 9).await.unwrap().unwrap_err());
    no(HostDescriptor::write_via_stream(&mut view, again(&file), 0).await.unwrap().unwrap_err());
    no(HostDescriptor::create_directory_at(&mut view, again(&root), "d".into()).await.unwrap().unwrap_err());
    no(HostDescriptor::unlink_file_at(&mut view, again(&root), "a".into()).await.unwrap().unwrap_err());
    let open = HostDescriptor::open_at(&mut view, again(&root), PathFlags::empty(), "b".into(), create, flags).await;
    no(open.unwrap().unwrap_err());
    assert!(rig.strict.asked().iter().all(|(act, _)| *act == HostAct::WriteFile));
    assert!(HostDescriptor::read(&mut view, again(&file), 9, 0).await.unwrap().is_ok());
    assert!(guest.table.get_mut(&stream).unwrap().read(9).is_ok());

    rig.strict.forbid(&[HostAct::ReadFile]);
    assert!(guest.table.get_mut(&stream).unwrap().read(9).is_err(), "an open stream is stopped");
    let mut view = guest.view();
    no(HostDescriptor::read(&mut view, again(&file), 9, 0).await.unwrap().unwrap_err());
    no(HostDescriptor::stat(&mut view, again(&file)).await.unwrap().unwrap_err());
    no(HostDescriptor::read_directory(&mut view, again(&root)).await.unwrap().unwrap_err());
    assert!(HostDescriptor::write(&mut view, again(&file), b"x".to_vec(), 0).await.unwrap().is_ok());
}

#[tokio::test]
async fn asking_for_a_file_that_is_bait_is_told_and_having_one_is_not() {
    let rig = Rig::new(GRANTED).await;
    let mut guest = rig.guest(Budget::DEFAULT);
    let mut view = guest.view();
    let root = Preopens::get_directories(&mut view).await.unwrap().remove(0).0;
    let again = || Resource::new_borrow(root.rep());
    let (flags, create) = (DescriptorFlags::READ | DescriptorFlags::WRITE, OpenFlags::CREATE);
    let none = OpenFlags::empty();
    let opened = HostDescriptor::open_at(&mut view, again(), PathFlags::empty(), ".env".into(), none, flags).await;
    assert_eq!(opened.unwrap().unwrap_err(), ErrorCode::NoEntry);
    let found = HostDescriptor::stat_at(&mut view, again(), PathFlags::empty(), ".ssh/id_rsa".into()).await;
    assert_eq!(found.unwrap().unwrap_err(), ErrorCode::NoEntry);
    let missing = HostDescriptor::stat_at(&mut view, again(), PathFlags::empty(), "notes".into()).await;
    assert_eq!(missing.unwrap().unwrap_err(), ErrorCode::NoEntry);
    let canary = |name: &str| crate::Tried::Canary { kind: "file", name: name.to_owned() };
    assert_eq!(rig.sworn.tried(), [canary(".env"), canary("id_rsa")]);
    // One of its own is no bait.
    let opened = HostDescriptor::open_at(&mut view, again(), PathFlags::empty(), ".env".into(), create, flags).await;
    opened.unwrap().unwrap();
    let opened = HostDescriptor::open_at(&mut view, again(), PathFlags::empty(), ".env".into(), none, flags).await;
    opened.unwrap().unwrap();
    // Nor while it may not be had, which says nothing of whether it is there.
    rig.strict.forbid(&[HostAct::ReadFile]);
    let refused = HostDescriptor::stat_at(&mut view, again(), PathFlags::empty(), ".env".into()).await;
    assert_eq!(refused.unwrap().unwrap_err(), ErrorCode::Access);
    rig.grant(&[]);
    let refused = HostDescriptor::open_at(&mut view, again(), PathFlags::empty(), ".env".into(), none, flags).await;
    assert_eq!(refused.unwrap().unwrap_err(), ErrorCode::Access);
    assert_eq!(rig.sworn.tried().len(), 2);
}
