//! Memory: opening a model copies nothing, decoding allocates nothing, and a forward pass keeps no second copy.

use pythia_model::quantized::{Check, Kept};
use pythia_model::{Model, Precision, Sequence, Size, Workspace};
use pythia_tensor::{Crew, Team};
use pythia_tests::synthetic;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The system's allocator, counting.
struct Counting;

/// Bytes asked for by all threads since the start.
static BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's allocations since the start.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    BYTES.fetch_add(bytes, Relaxed);
    // A thread that is being torn down may still allocate.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing, as the counters are
// constants at first.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above. This one keeps zeroed memory untouched, as without the counter.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test at a time: they share the count of bytes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that all threads asked for while `f` ran, of the allocator or mapped to work in, and this thread's allocations.
fn counted<R>(f: impl FnOnce() -> R) -> (R, usize, usize) {
    let all = || BYTES.load(Relaxed) + pythia_tensor::mapped_bytes();
    let (bytes, allocations) = (all(), ALLOCATIONS.get());
    let result = f();
    (result, all() - bytes, ALLOCATIONS.get() - allocations)
}

fn weights_len(dir: &Path) -> usize {
    std::fs::metadata(dir.join("model.safetensors")).unwrap().len() as usize
}

/// One new token of each cache.
fn decode(crew: &Crew<'_>, model: &Model, batch: &mut [Sequence<'_>], workspace: &mut Workspace) {
    let rows = batch.len();
    assert_eq!(model.forward(crew, batch, workspace).unwrap().rows(), rows);
}

#[test]
fn the_counter_counts() {
    let _alone = alone();
    let (kept, bytes, allocations) = counted(|| [vec![1_u8; 1000], vec![0; 2000]]);
    assert!(kept[0][0] == 1 && bytes >= 3000 && allocations == 2, "{bytes} bytes, {allocations} allocations");
}

#[test]
fn opening_a_model_copies_only_its_vectors() {
    let _alone = alone();
    let size = Size::named("70m").unwrap();
    let dir = synthetic(size);
    let (model, bytes, _) = counted(|| Model::open(&dir).unwrap());
    // Per layer two norms of 2 C, and biases of 3 C, C, 4 C and C, in f32; the final norm; the rotation's tables.
    let config = model.config();
    let (layers, c) = (config.num_hidden_layers, config.hidden_size);
    let vectors = 4 * (layers * (4 * c + 9 * c) + 2 * c);
    let tables = 4 * config.max_position_embeddings * config.rotary_dims();
    println!(
        "{bytes} bytes for {} of weights, {vectors} of vectors, {tables} of tables",
        weights_len(dir.path())
    );
    assert!(bytes < vectors + tables + (1 << 20), "{bytes} bytes allocated");
    assert!(bytes < weights_len(dir.path()) / 50, "{bytes} bytes allocated");
}

/// The model in `int8`, with its quantised weights in a file of its folder.
fn in_int8(crew: &Crew<'_>, dir: &Path) -> (Model, Kept) {
    let (model, path) = (Model::open(dir).unwrap(), dir.join("model.int8"));
    model.with_precision_kept(crew, Precision::Int8, (&path, Check::Quick), &mut |_| {}).unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn quantising_holds_a_matrix_at_a_time_and_opening_copies_nothing() {
    let _alone = alone();
    let dir = synthetic(Size::named("70m").unwrap());
    Team::new(2).unwrap().enter(|crew| {
        let before = status("RssAnon");
        let ((model, kept), _, _) = counted(|| in_int8(crew, dir.path()));
        assert!(kept.written && kept.not_written.is_none(), "{kept:?}");
        let unembedding = model.weights().embed_out_quantized.as_ref().unwrap().bytes().len();
        let held = status("RssAnon").saturating_sub(before);
        drop(model);
        let ((model, kept), bytes, _) = counted(|| in_int8(crew, dir.path()));
        println!("{held} bytes held after quantising, {unembedding} the largest; {bytes} bytes to open");
        assert!(!kept.written && kept.unusable.is_none(), "{kept:?}");
        let (config, quantized) =
            (model.config(), std::fs::metadata(dir.path().join("model.int8")).unwrap().len());
        let vectors = 4 * config.num_hidden_layers * 13 * config.hidden_size;
        let tables = 4 * config.max_position_embeddings * config.rotary_dims();
        assert!(bytes < vectors + tables + (1 << 20), "{bytes} bytes allocated for {quantized}");
        assert!(held < unembedding + (16 << 20), "{held} bytes");
    });
}

/// The first passes find out how much room is needed, for every thread and the longest run of tokens.
#[test]
fn decoding_allocates_nothing() {
    let _alone = alone();
    let dir = synthetic(Size::named("14m").unwrap());
    let exact = Model::open(&dir).unwrap();
    let int8 =
        Team::new(2).unwrap().enter(|crew| exact.clone().with_precision(crew, Precision::Int8)).unwrap();
    let cases = [(1, 1), (1, 3), (1, 6), (2, 1), (2, 6)];
    for (model, (threads, sequences)) in
        [&exact, &int8].into_iter().flat_map(|model| cases.map(|c| (model, c)))
    {
        Team::new(threads).unwrap().enter(|crew| {
            let mut workspace = Workspace::new();
            let mut caches: Vec<_> = (0..sequences).map(|_| model.cache(300).unwrap()).collect();
            let prompt: Vec<u32> = (0..100).collect();
            let mut batch: Vec<Sequence<'_>> =
                caches.iter_mut().map(|cache| Sequence::last(&prompt, cache)).collect();
            decode(crew, model, &mut batch, &mut workspace);
            for sequence in &mut batch {
                (sequence.ids, sequence.logits) = (&[17], 0..1);
            }
            (0..32).for_each(|_| decode(crew, model, &mut batch, &mut workspace));
            for token in 0..100 {
                let ((), bytes, allocations) = counted(|| decode(crew, model, &mut batch, &mut workspace));
                let precision = model.precision();
                let case = format!("token {token}, {threads} threads, {sequences} sequences, {precision}");
                assert_eq!(allocations, 0, "by the leader, {bytes} bytes in all: {case}");
                // Another thread may come late to its first tile of some kind.
                assert!(bytes < 1 << 18 && (threads > 1 || bytes == 0), "{bytes} bytes: {case}");
            }
        });
    }
}

/// The room that a prompt takes is that of its activations, however large the model.
#[test]
fn a_pass_allocates_its_activations_only() {
    let _alone = alone();
    let dir = synthetic(Size::named("70m").unwrap());
    let model = Model::open(&dir).unwrap();
    let ids: Vec<u32> = (0..256).collect();
    Team::new(2).unwrap().enter(|crew| {
        let mut cache = model.cache(256).unwrap();
        let (mut workspace, batch) = (Workspace::new(), &mut [Sequence::last(&ids, &mut cache)]);
        let ((), bytes, _) = counted(|| decode(crew, &model, batch, &mut workspace));
        let config = model.config();
        // x, ln1, ln2, z and qkv; the neurons; a row picked and its logits.
        let (c, n, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let activations = 4 * (ids.len() * (7 * c + n) + c + v);
        // Kernels take some of them packed, in up to 6 bytes a number: ln1 and ln2, then z and the neurons.
        let packed = 6 * ids.len() * (2 * c + c + n);
        println!("{bytes} bytes for {activations} of activations, {packed} packed");
        assert!(
            (activations..activations + packed + (8 << 20)).contains(&bytes),
            "{bytes} for {activations}"
        );
    });
}

/// A number of `/proc/self/status`, in bytes.
#[cfg(target_os = "linux")]
fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<usize>().unwrap() * 1024
}

/// A prompt and some tokens.
fn write_a_little(crew: &Crew<'_>, model: &Model) {
    let prompt: Vec<u32> = (0..512).collect();
    let (mut cache, mut workspace) = (model.cache(2048).unwrap(), Workspace::new());
    decode(crew, model, &mut [Sequence::last(&prompt, &mut cache)], &mut workspace);
    (0..20).for_each(|_| decode(crew, model, &mut [Sequence::last(&[17], &mut cache)], &mut workspace));
}

/// Writes a file anew so that the system keeps it in small pages: of pages of 2 MB, each vector that is read from among the matrices would show
/// a whole one as resident.
#[cfg(target_os = "linux")]
fn in_small_pages(path: &Path) {
    use std::io::{Read, Write};
    let copy = path.with_extension("copy");
    let (mut from, mut to) = (std::fs::File::open(path).unwrap(), std::fs::File::create_new(&copy).unwrap());
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => break,
            n => to.write_all(&buffer[..n]).unwrap(),
        }
    }
    std::fs::rename(copy, path).unwrap();
}

/// Run it alone: other tests of this file would count, too.
#[test]
#[ignore = "writes 2 GB"]
#[cfg(target_os = "linux")]
fn the_resident_set_of_410m_in_int8_is_its_quantised_weights_and_little_more() {
    let _alone = alone();
    let dir = synthetic(Size::named("410m").unwrap());
    in_small_pages(&dir.path().join("model.safetensors"));
    Team::new(2).unwrap().enter(|crew| {
        let mb = |bytes: usize| bytes / 1_000_000;
        assert!(in_int8(crew, dir.path()).1.written);
        println!(
            "quantising: at most {} MB resident, the stored weights' pages included",
            mb(status("VmHWM"))
        );
        // From here on, the peak counts anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let (model, kept) = in_int8(crew, dir.path());
        assert!(!kept.written);
        write_a_little(crew, &model);
        let weights = std::fs::metadata(dir.path().join("model.int8")).unwrap().len() as usize;
        let (peak, own) = (status("VmHWM"), status("RssAnon"));
        println!(
            "{} MB of weights, at most {} MB resident, {} MB not mapped",
            mb(weights),
            mb(peak),
            mb(own)
        );
        assert!(peak > weights, "the weights were not read?");
        assert!(peak <= weights + 200_000_000, "{peak} bytes resident for {weights} of weights");
    });
}

/// Run it alone: other tests of this file would count, too.
#[test]
#[ignore = "writes 0.8 GB"]
#[cfg(target_os = "linux")]
fn the_resident_set_of_410m_is_its_weights_and_little_more() {
    let _alone = alone();
    let dir = synthetic(Size::named("410m").unwrap());
    let model = Model::open(&dir).unwrap();
    Team::new(2).unwrap().enter(|crew| write_a_little(crew, &model));
    let (weights, peak, own) = (weights_len(dir.path()), status("VmHWM"), status("RssAnon"));
    let mb = |bytes: usize| bytes / 1_000_000;
    println!(
        "{} MB of weights, at most {} MB resident, {} MB not mapped at the end",
        mb(weights),
        mb(peak),
        mb(own)
    );
    assert!(peak > weights, "the weights were not read?");
    assert!(peak <= weights + 200_000_000, "{peak} bytes resident for {weights} of weights");
}
