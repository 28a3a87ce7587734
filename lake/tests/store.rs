//! One suite for every store: a folder and a bucket keep the same promises.
//!
//! The bucket's half needs a server: `python3 tests/servers.py run -- cargo test`.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::sync::Arc;

use clickmill_lake::store::counting::CountingStore;
use clickmill_lake::{Lake, open_store};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
};

async fn text(store: &dyn ObjectStore, path: &str) -> String {
    let bytes = store.get(&Path::from(path)).await.expect(path).bytes().await.expect(path);
    String::from_utf8(bytes.to_vec()).expect("utf8")
}

async fn listed(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let mut paths: Vec<String> = store
        .list(Some(&Path::from(prefix)))
        .map_ok(|meta| meta.location.to_string())
        .try_collect()
        .await
        .expect("lists");
    paths.sort();
    paths
}

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

async fn conforms(lake: &Lake) {
    let store = lake.store();
    let path = |text: &str| Path::from(text);

    // PUT, overwrite, create.
    store.put(&path("a/one"), "1".into()).await.expect("puts");
    let overwritten = store.put(&path("a/one"), "first".into()).await.expect("overwrites");
    let again = store.put_opts(&path("a/one"), "x".into(), create()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(text(store, "a/one").await, "first");
    store.put_opts(&path("a/b/two"), "second".into(), create()).await.expect("creates");
    let head = store.head(&path("a/one")).await.expect("heads");
    assert_eq!((head.size, head.e_tag), (5, overwritten.e_tag));

    // Many creators, one winner.
    let contested = path("a/contested");
    let creators = (0..16).map(|n| store.put_opts(&contested, format!("{n}").into(), create()));
    let outcomes = futures::future::join_all(creators).await;
    let winners: Vec<usize> = (0..16).filter(|n| outcomes[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(text(store, "a/contested").await, winners[0].to_string());

    // Ranges.
    let get = |range: GetRange| {
        let options = GetOptions::new().with_range(Some(range));
        async move {
            let found = store.get_opts(&Path::from("a/one"), options).await.expect("gets");
            found.bytes().await.expect("reads")
        }
    };
    assert_eq!(get(GetRange::Bounded(1..3)).await, "ir");
    assert_eq!(get(GetRange::Offset(3)).await, "st");
    assert_eq!(get(GetRange::Suffix(2)).await, "st");
    let ranges = store.get_ranges(&path("a/one"), &[0..1, 4..5]).await.expect("ranges");
    assert_eq!(ranges, ["f", "t"]);

    // What is not there.
    assert!(matches!(store.get(&path("a/none")).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&path("none/x")).await, Err(Error::NotFound { .. })));
    assert!(listed(store, "none").await.is_empty());

    // LIST: by segments, recursively or not, after an offset.
    store.put(&path("a/bb"), "".into()).await.expect("puts an empty object");
    assert_eq!(listed(store, "a").await, ["a/b/two", "a/bb", "a/contested", "a/one"]);
    assert_eq!(listed(store, "a/b").await, ["a/b/two"]);
    let level = store.list_with_delimiter(Some(&path("a"))).await.expect("lists");
    assert_eq!(level.common_prefixes, [path("a/b")]);
    assert_eq!(level.objects.len(), 3);
    let after: Vec<_> = store
        .list_with_offset(Some(&path("a")), &path("a/bb"))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .expect("lists");
    assert_eq!(after, [path("a/contested"), path("a/one")]);

    // Multipart: invisible until complete, gone when aborted.
    let part = |byte: u8| vec![byte; 5 << 20];
    let mut upload = store.put_multipart(&path("m/big")).await.expect("begins");
    upload.put_part(part(b'a').into()).await.expect("part 1");
    upload.put_part(part(b'b').into()).await.expect("part 2");
    assert!(listed(store, "m").await.is_empty());
    upload.complete().await.expect("completes");
    let big = store.get(&path("m/big")).await.expect("gets").bytes().await.expect("reads");
    assert!(big == [part(b'a'), part(b'b')].concat());
    let mut upload = store.put_multipart(&path("m/aborted")).await.expect("begins");
    upload.put_part(part(b'c').into()).await.expect("part");
    upload.abort().await.expect("aborts");
    drop(upload);
    assert_eq!(listed(store, "m").await, ["m/big"]);

    // Hostile names come back as they went in.
    for hostile in ["../x", "a=b%2F", "é ü", "#1", "x#1", "*?", "..", "'\"", "{}[]", "\u{1F6D2}"]
    {
        let location = Path::from("h").join(hostile);
        store.put(&location, hostile.to_owned().into()).await.expect(hostile);
        let back = store.get(&location).await.expect(hostile).bytes().await.expect(hostile);
        assert_eq!(back, hostile);
        let found: Vec<_> =
            store.list(Some(&path("h"))).map_ok(|m| m.location).try_collect().await.expect("list");
        assert!(found.contains(&location), "{hostile}: {found:?}");
    }

    // Copy, rename, delete.
    store.copy(&path("a/one"), &path("c/copy")).await.expect("copies");
    assert_eq!(text(store, "c/copy").await, "first");
    store.rename(&path("c/copy"), &path("c/moved")).await.expect("renames");
    assert_eq!(listed(store, "c").await, ["c/moved"]);
    store.delete(&path("c/moved")).await.expect("deletes");
    assert!(listed(store, "c").await.is_empty());
}

#[tokio::test]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    conforms(&lake).await;
}

#[tokio::test]
async fn a_bucket_conforms() {
    if let Some(lake) = support::bucket_lake("store").await {
        conforms(&lake).await;
    }
}

#[tokio::test]
async fn a_link_out_of_the_folder_is_not_followed() {
    let (inside, outside) = (tempfile::tempdir().expect("in"), tempfile::tempdir().expect("out"));
    std::fs::write(outside.path().join("secret"), "s").expect("writes");
    std::fs::write(inside.path().join("own"), "o").expect("writes");
    let link = |target: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(target, inside.path().join(name)).expect("links");
    };
    link(outside.path(), "folder");
    link(&outside.path().join("secret"), "file");
    link(&inside.path().join("own"), "alias");
    link(&inside.path().join("gone"), "dangling");

    let lake = support::folder_lake(inside.path()).await;
    let store = lake.store();
    assert_eq!(listed(store, "").await, ["alias", "own"]);
    assert_eq!(text(store, "alias").await, "o");
    for path in ["folder/secret", "file"] {
        assert!(store.get(&Path::from(path)).await.is_err(), "{path}");
        assert!(store.head(&Path::from(path)).await.is_err(), "{path}");
    }
    assert!(store.put(&Path::from("folder/new"), "x".into()).await.is_err());
    assert!(!outside.path().join("new").exists());
    assert!(store.delete(&Path::from("folder/secret")).await.is_err());
    assert!(outside.path().join("secret").exists());
}

#[tokio::test]
async fn an_unfinished_write_is_never_listed_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let mut upload = lake.store().put_multipart(&Path::from("a/x")).await.expect("begins");
    upload.put_part("half".into()).await.expect("part");
    let files = || std::fs::read_dir(folder.path().join("a")).expect("reads").count();
    assert_eq!(files(), 1);
    assert!(listed(lake.store(), "").await.is_empty());
    drop(upload);
    assert_eq!(files(), 0);
}

#[tokio::test]
async fn another_place_must_exist_and_a_folder_that_vanished_is_made_again() {
    let folder = tempfile::tempdir().expect("temp");
    let (store, url) = open_store(&folder.path().display().to_string()).await.expect("opens");
    assert!(url.as_str().ends_with('/'));
    store.put(&Path::from("a/b/c"), "1".into()).await.expect("puts");
    std::fs::remove_dir_all(folder.path().join("a")).expect("removes");
    store.put(&Path::from("a/b/c"), "2".into()).await.expect("puts again");
    assert_eq!(text(&store, "a/b/c").await, "2");
}

#[tokio::test]
async fn reads_are_counted_by_what_arrives() {
    let folder = tempfile::tempdir().expect("temp");
    let lake = support::folder_lake(folder.path()).await;
    let (store, counters) = CountingStore::new(Arc::clone(lake.store()));
    store.put(&Path::from("x"), "0123456789".into()).await.expect("puts");
    store.head(&Path::from("x")).await.expect("heads");
    store.get_range(&Path::from("x"), 2..5).await.expect("range");
    store.get_ranges(&Path::from("x"), &[0..1, 8..10]).await.expect("ranges");
    store.get(&Path::from("x")).await.expect("gets").bytes().await.expect("reads");
    store.list_with_delimiter(None).await.expect("lists");
    assert_eq!(counters.bytes_read(), 3 + 3 + 10);
    assert_eq!((counters.gets(), counters.lists(), counters.puts()), (5, 1, 1));
}
