//! Zip archives that lie about themselves: each refused by its own error.

use super::pytorch_files::parse;
use super::torch_save::{Archive, Tensor, archive, crc32, header, local_header, state_dict};

fn state() -> Vec<u8> {
    state_dict(&[("a", Tensor::new(0, &[4])), ("b", Tensor::new(1, &[4]))])
}

/// `data.pkl`, `byteorder`, `data/0`, `data/1`, `version`.
fn good() -> Archive {
    archive(&state(), &[("0", &[1; 8]), ("1", &[2; 8])])
}

fn refused(bytes: &[u8], expected: &str) {
    let message = parse(bytes).unwrap_err().to_string();
    assert!(message.starts_with("memory: ") && !message.contains('\n'), "{message}");
    assert!(message.contains(expected), "expected {expected:?}, found {message:?}");
}

/// The good archive with other bytes at a place.
fn changed(at: usize, bytes: &[u8], expected: &str) {
    refused(&good().with(at, bytes).bytes, expected);
}

#[test]
fn the_good_archive_is_good_with_and_without_zip64() {
    let zip = good();
    let entries = parse(&zip.bytes).unwrap();
    assert_eq!(entries["a"].range, zip.data[2]);
    let short = [&zip.bytes[..zip.end64], &zip.bytes[zip.end..]].concat();
    assert_eq!(parse(&short).unwrap(), entries);
    // What does not fit into the last record is in the one before.
    let wide = zip.with(zip.end + 8, &[0xff; 12]);
    assert_eq!(parse(&wide.bytes).unwrap(), entries);
}

#[test]
fn what_is_no_archive_of_pytorch_is_refused() {
    let none =
        "the archive does not have exactly one entry `NAME/data.pkl`: this is not a PyTorch checkpoint";
    refused(b"", "this is not a PyTorch checkpoint: it starts neither as a zip archive nor");
    refused(b"\x89HDF\r\n\x1a\n", "this is not a PyTorch checkpoint");
    refused(b"PK\x05\x06", "this is not a PyTorch checkpoint");
    refused(
        b"PK\x03\x04",
        "there is no zip directory at the end of the file: it is cut short, download it again",
    );
    refused(&Archive::new(&[("model/other", b"x")]).bytes, none);
    refused(&Archive::new(&[("data.pkl", &state())]).bytes, none);
    refused(&Archive::new(&[("a/b/data.pkl", &state())]).bytes, none);
    refused(&Archive::new(&[("a/data.pkl", &state()), ("b/data.pkl", &state())]).bytes, none);
    refused(
        &Archive::new(&[("m/data.pkl", &state()), ("m/byteorder", b"big")]).bytes,
        "expected numbers in the byte order `little`, found `big`",
    );
    // Storages are looked for beside the pickle, wherever names want to lead.
    for name in ["../data/0", "/data/0", "n/data/0", "m/data/../0", "m/data/00", "m/data/+0", "/etc/passwd"] {
        let zip = Archive::new(&[("m/data.pkl", &state()), (name, &[0; 8]), ("m/data/1", &[0; 8])]);
        refused(
            &zip.bytes,
            "tensor `a`: its storage 0 is not in the file: it is incomplete, download it again",
        );
    }
    refused(
        &archive(&state(), &[("0", &[0; 6]), ("1", &[0; 8])]).bytes,
        "tensor `a`: its storage 0 of 4 F16 does not have the 6 bytes that the file has for it",
    );
}

#[test]
fn entries_that_are_not_plain_bytes_are_refused() {
    let zip = good();
    let (header, local) = (zip.headers[2], zip.locals[2]);
    let name = "the archive's entry `model/data/0` ";
    let compressed =
        format!("{name}is compressed (method 8), expected to be stored as it is: load the checkpoint");
    changed(header + 10, &[8], &compressed);
    // A bomb: few bytes that are said to become many.
    changed(header + 24, &[0xff, 0xff, 0xff, 0x7f], &format!("{name}is compressed (method 0)"));
    changed(header + 20, &[7], &format!("{name}is compressed (method 0)"));
    for flag in [1, 0x20] {
        changed(header + 8, &[8 | flag], &format!("{name}is encrypted or lies in another file"));
    }
    changed(header + 9, &[0x28], &format!("{name}is encrypted or lies in another file"));
    changed(header + 34, &[1], &format!("{name}is encrypted or lies in another file"));
    let other = format!("{name}has another header at {local} than in the zip directory");
    for (at, bytes) in [(0, b"PX"), (6, &[0, 8]), (8, &[8, 0]), (26, &[11, 0]), (30, b"no")] {
        changed(local + at, bytes, &other);
    }
    let end = zip.data[2].end;
    let descriptor = format!("{name}has no descriptor at {end}: the file is damaged, download it again");
    for at in [0, 4, 8, 12] {
        changed(end + at, &[0xee], &descriptor);
    }
    let damaged = zip.with(zip.data[0].start + 20, b"?");
    let (found, expected) = (crc32(&damaged.bytes[zip.data[0].clone()]), crc32(&state()));
    let message = format!(
        "the archive's entry `model/data.pkl` has the checksum {found:08x}, expected {expected:08x}: the file is damaged"
    );
    refused(&damaged.bytes, &message);
}

#[test]
fn entries_outside_the_file_are_refused() {
    let zip = good();
    let directory = zip.headers[0];
    let outside = |at: u64, size: u64| {
        format!(
            "the archive's entry `model/data/0` at {at} with {size} bytes lies outside the file's data, which ends at \
             {directory}: the file is cut short, download it again"
        )
    };
    let header = zip.headers[2];
    let sized = |size: u32| [size.to_le_bytes(); 2].concat();
    let local = zip.locals[2] as u64;
    for (at, bytes, expected) in [
        (42, u32::MAX.to_le_bytes().to_vec(), outside(0xffff_ffff, 8)),
        (42, (directory as u32).to_le_bytes().to_vec(), outside(directory as u64, 8)),
        (42, (zip.bytes.len() as u32).to_le_bytes().to_vec(), outside(zip.bytes.len() as u64, 8)),
        (20, sized(u32::MAX), outside(local, 0xffff_ffff)),
        (20, sized(directory as u32), outside(local, directory as u64)),
    ] {
        changed(header + at, &bytes, &expected);
    }
}

/// An entry within the bytes of another one, which would give few bytes many times over; and one left out.
#[test]
fn entries_that_overlap_or_leave_gaps_are_refused() {
    let mut inner = vec![];
    local_header(&mut inner, "m/data/0", 0);
    inner.extend([0; 8]);
    inner.extend([b"PK\x07\x08", &crc32(&[0; 8]).to_le_bytes()[..], &[8, 0, 0, 0, 8, 0, 0, 0]].concat());
    let zip = Archive::new(&[("m/data.pkl", &state()), ("m/data/1", &inner)]);
    let at = zip.data[1].start;
    let rebuilt = |change: &dyn Fn(&mut Archive)| {
        let mut archive = zip.clone();
        archive.bytes.truncate(archive.end64);
        change(&mut archive);
        archive.finish(zip.headers[0]);
        archive.bytes
    };
    let overlapping = rebuilt(&|archive| {
        archive.headers.push(0);
        header(&mut archive.bytes, "m/data/0", &[0; 8], at, &[]);
    });
    let end = zip.headers[0];
    refused(
        &overlapping,
        &format!("in the archive, `m/data/0` at {at} overlaps `m/data/1`, which ends at {end}"),
    );
    let twice = rebuilt(&|archive| {
        archive.headers.push(0);
        header(&mut archive.bytes, "m/data/1", &inner, archive.locals[1], &[]);
    });
    refused(&twice, "the archive's entry `m/data/1` occurs twice");
    let left_out = rebuilt(&|archive| {
        archive.bytes.truncate(archive.headers.pop().unwrap());
    });
    let gap = format!(
        "in the archive, `the zip directory` at {end} leaves a gap after `m/data.pkl`, which ends at "
    );
    refused(&left_out, &gap);
}

#[test]
fn directories_that_lie_are_refused() {
    let zip = good();
    let (end64, locator, end) = (zip.end64, zip.locator, zip.end);
    let absent = "there is no zip directory at the end of the file: it is cut short, download it again";
    refused(&zip.bytes[..end], absent);
    // A comment, empty or not, which could hide another end.
    refused(&[&zip.with(end + 20, &[1]).bytes[..], b"x"].concat(), absent);
    changed(end + 20, &[1], absent);
    refused(&[&zip.bytes[..], b"x"].concat(), absent);

    let damaged = "the zip64 record at the end of the file is damaged: download it again";
    for (at, bytes) in [
        (end64, &b"PX"[..]),
        (end64 + 4, &[45]),
        (end64 + 4, &[0xff; 8]),
        (locator + 4, &[1]),
        (locator + 8, &[0xee]),
        (locator + 8, &[0xff; 8]),
        (locator + 16, &[2]),
    ] {
        changed(at, bytes, damaged);
    }
    let contradiction = "the zip64 record and the one after it contradict each other";
    for at in [end64 + 16, end64 + 24, end64 + 32, end64 + 40, end64 + 48, end + 8, end + 12, end + 16] {
        changed(at, &[0xee], contradiction);
    }
    // Without the older record's word the wider one stands alone.
    let wide = |at: usize, bytes: &[u8], expected: &str| {
        refused(&zip.with(end + 4, &[0xff; 16]).with(end64 + at, bytes).bytes, expected);
    };
    wide(16, &[1], "the archive is said to be split over several files, expected a single one");
    wide(20, &[1], "the archive is said to be split over several files");
    wide(24, &[4], "the archive is said to be split over several files");
    wide(40, &[0xff; 8], "the zip directory of 18446744073709551615 bytes at ");
    wide(48, &[0xff; 8], " at 18446744073709551615 does not end at ");
    wide(40, &[0; 8], "the zip directory of 0 bytes at ");
    wide(24, &[0xff; 16], "18446744073709551615 headers do not fit into a zip directory of ");
    wide(24, &[[6, 0, 0, 0, 0, 0, 0, 0]; 2].concat(), "header 5 of 6 in the zip directory is damaged");
    wide(
        24,
        &[[4, 0, 0, 0, 0, 0, 0, 0]; 2].concat(),
        " bytes follow the last header of the zip directory, expected none",
    );
}

#[test]
fn headers_of_the_directory_that_lie_are_refused() {
    let zip = good();
    let header = zip.headers[1];
    let damaged = "header 1 of 5 in the zip directory is damaged: download the file again";
    for (at, bytes) in
        [(0, &b"PX"[..]), (28, &[0xff, 0xff]), (46, &[0xff]), (30, &[3, 0]), (30, &[0xff, 0xff])]
    {
        changed(header + at, bytes, damaged);
    }
    changed(header + 32, &[0xff, 0xff], damaged);
    changed(header + 32, &[1], "header 2 of 5 in the zip directory is damaged");
}

/// What PyTorch writes for entries beyond 4 GiB.
#[test]
fn descriptors_may_have_sizes_of_64_bits() {
    let zip = good();
    let (end, directory) = (zip.data[4].end, zip.headers[0]);
    let sizes = |size: u64| [size.to_le_bytes(); 2].concat();
    let with = |sizes: &[u8]| {
        let mut archive = zip.clone();
        archive.bytes.splice(end + 8..directory, sizes.iter().copied());
        archive.bytes.truncate(archive.end64 + sizes.len() - 8);
        archive.finish(directory + sizes.len() - 8);
        archive.bytes
    };
    assert_eq!(parse(&with(&sizes(2))).unwrap(), parse(&zip.bytes).unwrap());
    let message = format!("the archive's entry `model/version` has no descriptor at {end}");
    refused(&with(&sizes(3)), &message);
    refused(&with(&[2; 15]), &message);
}

/// The field for 64-bit numbers of one entry.
#[test]
fn zip64_fields_are_read_and_checked() {
    let zip = Archive::new(&[("m/data.pkl", &state()), ("m/data/0", &[1; 8]), ("m/data/1", &[2; 8])]);
    let with = |sentinels: &[usize], extra: &[u8]| {
        let mut archive = zip.clone();
        let at = archive.headers[2];
        archive.bytes.truncate(at);
        header(&mut archive.bytes, "m/data/1", &[2; 8], archive.locals[2], extra);
        for field in sentinels {
            archive.bytes[at + field..at + field + 4].fill(0xff);
        }
        archive.finish(zip.headers[0]);
        archive.bytes
    };
    let field = |numbers: &[u64]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        [&[1, 0], &(numbers.len() as u16).to_le_bytes()[..], &numbers].concat()
    };
    let local = zip.locals[2] as u64;
    let (size, stored, offset) = (24, 20, 42);
    let other = [&b"FB\x02\0xx"[..], &field(&[8, 8, local])].concat();
    let entries = parse(&zip.bytes).unwrap();
    for (sentinels, extra) in [
        (&[][..], field(&[])),
        (&[size, stored, offset], field(&[8, 8, local])),
        (&[offset], field(&[local])),
        (&[size, stored, offset], other),
    ] {
        assert_eq!(parse(&with(sentinels, &extra)).unwrap(), entries);
    }
    let damaged = "header 2 of 3 in the zip directory is damaged";
    for (sentinels, extra, expected) in [
        (&[size, stored, offset][..], field(&[8, 8]), damaged),
        (&[offset], field(&[]), damaged),
        (&[offset], b"\x01\0\xff\xff".to_vec(), damaged),
        (&[offset], b"\x01".to_vec(), damaged),
        (
            &[size, stored, offset],
            field(&[u64::MAX, u64::MAX, local]),
            "with 18446744073709551615 bytes lies outside",
        ),
        (
            &[size, stored, offset],
            field(&[8, 8, u64::MAX]),
            "at 18446744073709551615 with 8 bytes lies outside",
        ),
        (&[size, stored], field(&[8, 9]), "the archive's entry `m/data/1` is compressed (method 0)"),
        (&[offset], vec![], "the archive's entry `m/data/1` at 4294967295 with 8 bytes lies outside"),
    ] {
        refused(&with(sentinels, &extra), expected);
    }
}
