//! The directory of a zip archive as `torch.save` writes it: every entry stored as it is, none compressed.
//!
//! An archive is its entries, each a local header, its bytes and perhaps a descriptor; a directory with a header for
//! each of them; and a record that says where the directory lies, preceded by a wider one and its locator where 32 bits
//! do not suffice (zip64). All numbers are little-endian. The rules here are stricter than the format's, which lets
//! readers disagree on what an archive holds: entries fill the file, and nothing comes after the last record.
//! <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>

use super::pickle::{self, Pickle};
use super::{Contents, shown, state_dict};
use std::collections::HashMap;
use std::ops::Range;

/// How an archive starts: with the local header of its first entry.
pub(super) const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const DESCRIPTOR: &[u8] = b"PK\x07\x08";
const LOCATOR: &[u8] = b"PK\x06\x07";
const END64: &[u8] = b"PK\x06\x06";

// The length of each record without its names.
const LOCAL_LENGTH: usize = 30;
const CENTRAL_LENGTH: usize = 46;
const END_LENGTH: usize = 22;
const LOCATOR_LENGTH: usize = 20;
const END64_LENGTH: usize = 56;

/// Bit 3 of the flags.
const HAS_DESCRIPTOR: u64 = 8;
/// In a field of 16 or 32 bits: look in the wider record.
const WIDER_16: u64 = 0xffff;
const WIDER_32: u64 = 0xffff_ffff;

/// The state dict of an archive, whose entries are `NAME/data.pkl`, `NAME/data/KEY` for each storage, and a few notes.
pub(super) fn read(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let entries = entries(bytes)?;
    let data = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
    let is_pickle = |name: &str| name.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl");
    let mut pickles = entries.iter().filter(|(name, _)| is_pickle(name));
    let (Some((name, stored)), None) = (pickles.next(), pickles.next()) else {
        return Err(
            "the archive does not have exactly one entry `NAME/data.pkl`: this is not a PyTorch checkpoint"
                .to_owned(),
        );
    };
    let folder = name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&*format!("{folder}byteorder")).map(|order| data(&order.range))
        && order != b"little"
    {
        let found = shown(&String::from_utf8_lossy(order));
        return Err(format!(
            "expected numbers in the byte order `little`, found `{found}`: save it again there"
        ));
    }
    let length = stored.range.len();
    if length > pickle::MAX_LENGTH {
        return Err(format!("the pickle has {length} bytes, expected at most {}", pickle::MAX_LENGTH));
    }
    let is_right = |stored: &Stored| crc32(data(&stored.range)) == stored.crc;
    if !is_right(stored) && has_checksums(&entries, is_right) {
        return Err(format!(
            "the archive's entry `{}` has the checksum {:08x}, expected {:08x}: the file is damaged, download it again",
            shown(name),
            crc32(data(&stored.range)),
            stored.crc
        ));
    }
    let pickle = read_pickle(data(&stored.range), bytes.len())?;
    let key = |name: &str| state_dict::storage_key(name.strip_prefix(folder)?.strip_prefix("data/")?);
    let storages = entries.iter().filter_map(|(name, stored)| Some((key(name)?, stored.range.clone())));
    Ok(Contents { views: state_dict::views(&pickle, bytes.len())?, storages: storages.collect() })
}

/// Whether an archive has checksums: `torch.save` can be told to leave them out
/// (`torch.serialization.set_crc32_options(False)`), and then those of the notes beside the pickle are wrong as well.
/// Storages are not read.
fn has_checksums(entries: &HashMap<&str, Stored>, is_right: impl Fn(&Stored) -> bool) -> bool {
    const LONGEST_NOTE: usize = 64;
    let mut notes =
        entries.values().filter(|stored| (1..=LONGEST_NOTE).contains(&stored.range.len())).peekable();
    notes.peek().is_none() || notes.any(is_right)
}

/// The pickle that fills an entry, in a file of `file` bytes.
fn read_pickle(bytes: &[u8], file: usize) -> Result<Pickle<'_>, String> {
    let length = bytes.len();
    let pickle = Pickle::parse(bytes, file)?;
    match length - pickle.length {
        0 => Ok(pickle),
        left => Err(format!("{left} bytes follow the pickle, expected none")),
    }
}

/// Where the bytes of an entry lie, and their checksum.
struct Stored {
    range: Range<usize>,
    crc: u32,
}

/// Every entry of an archive by name. They fill the file up to the directory.
fn entries(bytes: &[u8]) -> Result<HashMap<&str, Stored>, String> {
    let directory = Directory::find(bytes)?;
    let mut rest = bytes.get(directory.range.clone()).unwrap_or_default();
    let mut entries = HashMap::new();
    let mut places = Vec::new();
    for number in 0..directory.count {
        let (header, length) = Header::parse(rest).ok_or_else(|| {
            format!(
                "header {number} of {} in the zip directory is damaged: download the file again",
                directory.count
            )
        })?;
        rest = rest.get(length..).unwrap_or_default();
        let fail = |message: &str| format!("the archive's entry `{}` {message}", shown(header.name));
        let (whole, stored) = header.locate(bytes, directory.range.start).map_err(|e| fail(&e))?;
        places.push((whole, header.name));
        if entries.insert(header.name, stored).is_some() {
            return Err(fail("occurs twice"));
        }
    }
    if !rest.is_empty() {
        return Err(format!(
            "{} bytes follow the last header of the zip directory, expected none",
            rest.len()
        ));
    }
    check_places(places, directory.range.start)?;
    Ok(entries)
}

/// Whether the entries fill the file up to the directory, back to back.
fn check_places(mut places: Vec<(Range<usize>, &str)>, directory: usize) -> Result<(), String> {
    places.sort_by_key(|(range, _)| (range.start, range.end));
    places.push((directory..directory, "the zip directory"));
    let (mut end, mut last) = (0, "the start of the file");
    for (range, name) in places {
        let start = range.start;
        if start != end {
            let relation = if start < end { "overlaps" } else { "leaves a gap after" };
            let (this, before) = (shown(name), shown(last));
            return Err(format!(
                "in the archive, `{this}` at {start} {relation} `{before}`, which ends at {end}"
            ));
        }
        (end, last) = (range.end, name);
    }
    Ok(())
}

/// The little-endian number of `N` bytes at `at`.
fn number<const N: usize>(record: &[u8], at: usize) -> Option<u64> {
    let bytes = record.get(at..)?.first_chunk::<N>()?;
    Some(bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

/// Where the directory lies, and how many headers it has.
struct Directory {
    range: Range<usize>,
    count: u64,
}

/// What a record at the end of an archive says of the directory.
#[derive(PartialEq)]
struct End {
    /// This disk, and the one that the directory starts on.
    disks: [u64; 2],
    /// The headers on this disk, and all of them.
    counts: [u64; 2],
    size: u64,
    offset: u64,
}

impl Directory {
    fn find(bytes: &[u8]) -> Result<Self, String> {
        let absent = "there is no zip directory at the end of the file: it is cut short, download it again";
        let (before, record) =
            split_end(bytes, END_LENGTH).filter(|(_, r)| r.starts_with(END)).ok_or(absent)?;
        let end = End::parse(record).ok_or(absent)?;
        let (end, at) = match split_end(before, LOCATOR_LENGTH).filter(|(_, r)| r.starts_with(LOCATOR)) {
            None => (end, before.len()),
            Some((before, locator)) => {
                let (wide, at) = End::parse_wide(before, locator)
                    .ok_or("the zip64 record at the end of the file is damaged: download it again")?;
                if !end.agrees(&wide) {
                    return Err("the zip64 record and the one after it contradict each other: download the file again"
                        .to_owned());
                }
                (wide, at)
            }
        };
        let End { disks, counts: [here, count], size, offset } = end;
        if disks != [0, 0] || here != count {
            return Err(
                "the archive is said to be split over several files, expected a single one".to_owned()
            );
        }
        if offset.checked_add(size) != Some(at as u64) {
            return Err(format!(
                "the zip directory of {size} bytes at {offset} does not end at {at}, where the record about it \
                 starts: download the file again"
            ));
        }
        if count.checked_mul(CENTRAL_LENGTH as u64).is_none_or(|least| least > size) {
            return Err(format!("{count} headers do not fit into a zip directory of {size} bytes"));
        }
        Ok(Self { range: at - size as usize..at, count })
    }
}

impl End {
    fn parse(record: &[u8]) -> Option<Self> {
        // A comment would make the end of the archive a matter of searching; PyTorch writes none.
        (number::<2>(record, 20)? == 0).then_some(())?;
        Some(Self {
            disks: [number::<2>(record, 4)?, number::<2>(record, 6)?],
            counts: [number::<2>(record, 8)?, number::<2>(record, 10)?],
            size: number::<4>(record, 12)?,
            offset: number::<4>(record, 16)?,
        })
    }

    /// The record that `locator` names, which must end where `before`, the bytes before the locator, do; and where it
    /// starts.
    fn parse_wide(before: &[u8], locator: &[u8]) -> Option<(Self, usize)> {
        let (before, record) = split_end(before, END64_LENGTH)?;
        let placed = number::<4>(locator, 4)? == 0
            && number::<8>(locator, 8)? == before.len() as u64
            && number::<4>(locator, 16)? == 1;
        let whole = record.starts_with(END64) && number::<8>(record, 4)? == END64_LENGTH as u64 - 12;
        (placed && whole).then_some(())?;
        let end = Self {
            disks: [number::<4>(record, 16)?, number::<4>(record, 20)?],
            counts: [number::<8>(record, 24)?, number::<8>(record, 32)?],
            size: number::<8>(record, 40)?,
            offset: number::<8>(record, 48)?,
        };
        Some((end, before.len()))
    }

    /// Whether every field is that of the wider record or refers to it.
    fn agrees(&self, wide: &Self) -> bool {
        let same = |a: u64, b: u64, refers: u64| a == b || a == refers;
        let narrow = self.disks.iter().chain(&self.counts).zip(wide.disks.iter().chain(&wide.counts));
        narrow.into_iter().all(|(&a, &b)| same(a, b, WIDER_16))
            && same(self.size, wide.size, WIDER_32)
            && same(self.offset, wide.offset, WIDER_32)
    }
}

/// `bytes` without the last `length`, and those.
fn split_end(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(bytes.len().checked_sub(length)?)
}

/// What the directory says of an entry.
struct Header<'a> {
    name: &'a str,
    flags: u64,
    method: u64,
    crc: u32,
    stored: u64,
    size: usize,
    disk: u64,
    offset: u64,
}

impl<'a> Header<'a> {
    /// The header that `bytes` start with, and its length.
    fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        bytes.starts_with(CENTRAL).then_some(())?;
        let field = |at| number::<2>(bytes, at);
        let [name, extra, comment] = [field(28)?, field(30)?, field(32)?].map(|length| length as usize);
        let length = CENTRAL_LENGTH + name + extra + comment;
        let (names, _) = bytes.split_at_checked(length)?;
        let (name, rest) = names.get(CENTRAL_LENGTH..)?.split_at_checked(name)?;
        let [mut size, mut stored, mut offset] =
            [number::<4>(bytes, 24)?, number::<4>(bytes, 20)?, number::<4>(bytes, 42)?];
        widen([&mut size, &mut stored, &mut offset], rest.get(..extra)?)?;
        let header = Self {
            name: std::str::from_utf8(name).ok()?,
            flags: field(8)?,
            method: field(10)?,
            crc: u32::try_from(number::<4>(bytes, 16)?).ok()?,
            stored,
            size: usize::try_from(size).ok()?,
            disk: field(34)?,
            offset,
        };
        Some((header, length))
    }

    /// Where the entry lies from its local header on, and where its bytes do, if what stands around them agrees with
    /// this header. It must end before the directory.
    fn locate(&self, bytes: &[u8], directory: usize) -> Result<(Range<usize>, Stored), String> {
        if self.method != 0 || self.stored != self.size as u64 {
            return Err(format!(
                "is compressed (method {}), expected to be stored as it is: load the checkpoint with PyTorch and save it \
                 again",
                self.method
            ));
        }
        // Bit 0: encrypted. Bit 5: a patch of another file. Bit 13: a hidden header.
        if self.flags & 0x2021 != 0 || self.disk != 0 {
            return Err("is encrypted or lies in another file, expected neither".to_owned());
        }
        let outside = || {
            format!(
                "at {} with {} bytes lies outside the file's data, which ends at {directory}: the file is cut short, \
                 download it again",
                self.offset, self.size
            )
        };
        let start = usize::try_from(self.offset).ok().filter(|&at| at < directory).ok_or_else(outside)?;
        let local = bytes.get(start..directory).ok_or_else(outside)?;
        let begin = self.local_length(local).ok_or_else(|| {
            format!("has another header at {start} than in the zip directory: the file is damaged, download it again")
        })?;
        let end = begin.checked_add(self.size).filter(|&end| end <= local.len()).ok_or_else(outside)?;
        let descriptor = self.descriptor_length(local.get(end..).unwrap_or_default()).ok_or_else(|| {
            format!("has no descriptor at {}: the file is damaged, download it again", start + end)
        })?;
        Ok((start..start + end + descriptor, Stored { range: start + begin..start + end, crc: self.crc }))
    }

    /// The length of the header before the entry's bytes, if it is one for this entry.
    fn local_length(&self, bytes: &[u8]) -> Option<usize> {
        let [name, extra] = [number::<2>(bytes, 26)?, number::<2>(bytes, 28)?].map(|length| length as usize);
        let same = bytes.starts_with(LOCAL)
            && number::<2>(bytes, 6)? == self.flags
            && number::<2>(bytes, 8)? == self.method
            && bytes.get(LOCAL_LENGTH..)?.get(..name)? == self.name.as_bytes();
        same.then_some(LOCAL_LENGTH + name + extra)
    }

    /// The length of the descriptor after the entry's bytes, which has the checksum and the sizes, of 32 or 64 bits,
    /// where the header before them could not.
    fn descriptor_length(&self, bytes: &[u8]) -> Option<usize> {
        if self.flags & HAS_DESCRIPTOR == 0 {
            return Some(0);
        }
        let (crc, size) = (u64::from(self.crc), self.size as u64);
        (bytes.starts_with(DESCRIPTOR) && number::<4>(bytes, 4)? == crc).then_some(())?;
        if [number::<4>(bytes, 8)?, number::<4>(bytes, 12)?] == [size; 2] {
            return Some(16);
        }
        ([number::<8>(bytes, 8)?, number::<8>(bytes, 16)?] == [size; 2]).then_some(24)
    }
}

/// Fills in the numbers that do not fit into 32 bits, from the extra field for them, in this order.
fn widen(numbers: [&mut u64; 3], mut extra: &[u8]) -> Option<()> {
    const ZIP64: u64 = 1;
    while !extra.is_empty() {
        let (id, length) = (number::<2>(extra, 0)?, number::<2>(extra, 2)? as usize);
        let (mut field, rest) = extra.get(4..)?.split_at_checked(length)?;
        if id == ZIP64 {
            for number in numbers {
                if *number == WIDER_32 {
                    *number = self::number::<8>(field, 0)?;
                    field = field.get(8..)?;
                }
            }
            return Some(());
        }
        extra = rest;
    }
    Some(())
}

/// What zip's checksum makes of each byte, its polynomial's bits reversed.
const REMAINDERS: [u32; 256] = {
    let mut remainders = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        remainders[byte] = crc;
        byte += 1;
    }
    remainders
};

/// The checksum that zip uses, of no more than a pickle.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| crc >> 8 ^ REMAINDERS[usize::from(crc as u8 ^ byte)])
}
