//! [`compare`]: which checkpoints have weights in common.

use super::Fingerprint;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Weights that checkpoints have in common. A step of training changes every matrix, so that two steps of one training have
/// none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// The places, among those compared, of the checkpoints that have them: two at least, in order.
    pub checkpoints: Vec<usize>,
    /// How much it is.
    pub extent: Extent,
}

/// How much of the weights checkpoints have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// All.
    All,
    /// All that lies in some of the files of a checkpoint, and nothing else: its shards come from different steps.
    Files {
        /// The checkpoint's place.
        of: usize,
        /// The files' names.
        files: Vec<String>,
    },
    /// Other matrices, so many of `of`.
    Matrices {
        /// How many they have in common.
        common: usize,
        /// How many there are.
        of: usize,
    },
}

/// Finds what the weights of some checkpoints of a model have in common, where that is anything. First come the checkpoints
/// that are equal, then those that are in part.
pub fn compare(fingerprints: &[&Fingerprint]) -> Vec<Common> {
    let groups = equal(fingerprints);
    let whole = groups.iter().filter(|group| group.len() > 1);
    let mut found: Vec<Common> =
        whole.map(|group| Common { checkpoints: group.clone(), extent: Extent::All }).collect();
    for (owners, matrices) in in_part(fingerprints, &groups) {
        let mut checkpoints: Vec<usize> =
            owners.iter().filter_map(|g| groups.get(*g)).flatten().copied().collect();
        checkpoints.sort_unstable();
        let extent = extent(fingerprints, &checkpoints, &matrices);
        found.push(Common { checkpoints, extent });
    }
    found
}

/// The checkpoints in groups of equal ones, in the order of their first ones.
fn equal(fingerprints: &[&Fingerprint]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut of_hash = HashMap::new();
    for (i, fingerprint) in fingerprints.iter().enumerate() {
        let group = *of_hash.entry(fingerprint.hash).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// By the groups that have them in common: names of matrices.
fn in_part<'f>(
    fingerprints: &[&'f Fingerprint],
    groups: &[Vec<usize>],
) -> BTreeMap<Vec<usize>, HashSet<&'f str>> {
    let mut owners: HashMap<(&str, u64), Vec<usize>> = HashMap::new();
    for (g, group) in groups.iter().enumerate() {
        let first = group.first().and_then(|first| fingerprints.get(*first));
        for matrix in first.iter().flat_map(|fingerprint| &fingerprint.matrices) {
            owners.entry((&matrix.name, matrix.hash)).or_default().push(g);
        }
    }
    let mut common: BTreeMap<Vec<usize>, HashSet<&str>> = BTreeMap::new();
    for ((name, _), owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
        common.entry(owners).or_default().insert(name);
    }
    common
}

fn extent(fingerprints: &[&Fingerprint], checkpoints: &[usize], matrices: &HashSet<&str>) -> Extent {
    let files = |&of: &usize| Some((of, fingerprints.get(of)?.files_of(matrices)?));
    if let Some((of, files)) = checkpoints.iter().find_map(files) {
        return Extent::Files { of, files };
    }
    let of = checkpoints.iter().filter_map(|c| fingerprints.get(*c)).map(|f| f.matrices.len()).max();
    Extent::Matrices { common: matrices.len(), of: of.unwrap_or_default() }
}

impl Fingerprint {
    /// The files that hold these matrices and no others, if they are some of several.
    fn files_of(&self, matrices: &HashSet<&str>) -> Option<Vec<String>> {
        let mut holds = vec![false; self.files.len()];
        for matrix in self.matrices.iter().filter(|matrix| matrices.contains(&*matrix.name)) {
            *holds.get_mut(matrix.file?)? = true;
        }
        let strays = self.matrices.iter().any(|matrix| {
            !matrices.contains(&*matrix.name)
                && matrix.file.and_then(|file| holds.get(file)).is_none_or(|holds| *holds)
        });
        let files = self.files.iter().zip(&holds).filter(|(_, holds)| **holds).map(|(file, _)| file.clone());
        (!strays && holds.contains(&false)).then(|| files.collect())
    }
}
