//! The same verdict by the maps that one would take first: an LPM trie from address to class, hash
//! maps from port to port class, from class to row, and from row and port class to the verdict.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Context;
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, lpm_trie::Key},
};
use netpolc_policy::Port;
use netpolc_table::{IfIndex, schema::Family};
use netpolc_target::{frame::Packet, semantics::tcp};
use netpolc_target_ebpf::{
    measure::{
        asm::{Alu, Asm, Code, Cond, MapRef, Reg::*, Size},
        loader::Loaded,
    },
    program::{NEXT, SHOT, Stage},
};

use super::{
    packet::passed,
    world::{self, FIRST_PORT, REMOTES},
};

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;
const LOOKUP: i32 = 1;
/// The offset of `data` in struct __sk_buff.
const DATA: i16 = 76;
const DATA_END: i16 = 80;

const COUNTER: u8 = 0;
const REMOTE: u8 = 1;
const PORT: u8 = 2;
const ROW: u8 = 3;
const VERDICT: u8 = 4;

/// Maps, and the programs with and without the lookups.
pub struct Rival {
    _maps: Vec<MapData>,
    full: Loaded,
    parse: Loaded,
    frame: Vec<u8>,
}

impl Rival {
    /// The same policies as `world::cluster`'s, for one family.
    ///
    /// # Errors
    /// The caller is not root, or the kernel refuses maps or programs.
    pub fn new(policies: usize, family: Family) -> anyhow::Result<Self> {
        let starts = boundaries(policies);
        let address = u32::from(family.bits()) / 8;
        let maps = vec![
            create(ARRAY, 4, 1, 0)?,
            create(LPM_TRIE, 4 + address, REMOTES, NO_PREALLOC)?,
            create(HASH, 4, 1 << 16, 0)?,
            create(HASH, 4, 1 << 16, 0)?,
            create(HASH, 4, 1 << 20, NO_PREALLOC)?,
        ];
        fill_remotes(&maps[usize::from(REMOTE)], policies, family)?;
        let class_of =
            |port: u16| starts.iter().position(|s| *s > port).unwrap_or(starts.len()) as u32;
        let mut ports = hash::<u32>(&maps[usize::from(PORT)])?;
        for port in starts.iter().copied().chain(FIRST_PORT..=world::LAST_PORT) {
            ports.insert(6 << 16 | u32::from(port), class_of(port), 0)?;
        }
        let mut rows = hash::<u32>(&maps[usize::from(ROW)])?;
        let mut verdicts = hash::<u32>(&maps[usize::from(VERDICT)])?;
        for policy in 0..policies as u32 {
            rows.insert(1 << 16 | (policy + 1), policy + 1, 0)?;
            for port in world::ports(policy as usize) {
                let Port::Range { first, last, .. } = port else { continue };
                for class in class_of(first)..=class_of(last) {
                    verdicts.insert(((policy + 1) << 16) | class, 1, 0)?;
                }
            }
        }
        let load = |name: &str, stage| -> anyhow::Result<Loaded> {
            let code = code(family, stage)?;
            let descriptor = |map| match map {
                MapRef::Extra(n) => maps[usize::from(n)].fd().as_fd().as_raw_fd(),
                MapRef::Table(_) => -1,
            };
            Ok(Loaded::load(name, &code, descriptor)?)
        };
        let (full, parse) =
            (load("bench_rival", Stage::Full)?, load("bench_rival0", Stage::ParseOnly)?);
        let packet = Packet::new(world::remote(family, 0), world::local(family)).tcp(
            40_000,
            FIRST_PORT,
            tcp::ACK,
        );
        let frame = packet.payload(&[0; 64]).build();
        let rival = Self { _maps: maps, full, parse, frame };
        for _ in 0..64 {
            passed(rival.full.run(&rival.frame, IfIndex::new(1), IfIndex::new(2), 1000)?.0)?;
        }
        Ok(rival)
    }

    /// Nanoseconds of one run, with or without the lookups.
    ///
    /// # Errors
    /// The kernel refuses to run the program.
    pub fn run(&self, stage: Stage, repeat: u32) -> anyhow::Result<f64> {
        let program = if stage == Stage::Full { &self.full } else { &self.parse };
        Ok(program.run(&self.frame, IfIndex::new(1), IfIndex::new(2), repeat)?.1.as_nanos() as f64)
    }
}

/// The ports at which port classes begin.
fn boundaries(policies: usize) -> Vec<u16> {
    let mut starts = BTreeSet::new();
    for port in (0..policies).flat_map(world::ports) {
        let Port::Range { first, last, .. } = port else { continue };
        starts.extend([first, last + 1]);
    }
    starts.into_iter().collect()
}

fn create(kind: u32, key: u32, entries: u32, flags: u32) -> anyhow::Result<MapData> {
    let map = aya_obj::Map::new_from_params(kind, key, 4, entries, flags);
    MapData::create(map, "netpolc_rival", None).context("create a map for comparison")
}

fn again(map: &MapData) -> anyhow::Result<MapData> {
    Ok(MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)?)
}

fn hash<K: Pod>(map: &MapData) -> anyhow::Result<HashMap<MapData, K, u32>> {
    Ok(HashMap::try_from(Map::HashMap(again(map)?))?)
}

fn fill_remotes(map: &MapData, policies: usize, family: Family) -> anyhow::Result<()> {
    let class = |n: u32| world::group(n, policies) as u32 + 1;
    match family {
        Family::V4 => {
            let mut trie: LpmTrie<MapData, [u8; 4], u32> =
                LpmTrie::try_from(Map::LpmTrie(again(map)?))?;
            for n in 0..REMOTES {
                let std::net::IpAddr::V4(address) = world::remote(family, n) else { continue };
                trie.insert(&Key::new(32, address.octets()), class(n), 0)?;
            }
        }
        Family::V6 => {
            let mut trie: LpmTrie<MapData, [u8; 16], u32> =
                LpmTrie::try_from(Map::LpmTrie(again(map)?))?;
            for n in 0..REMOTES {
                let std::net::IpAddr::V6(address) = world::remote(family, n) else { continue };
                trie.insert(&Key::new(128, address.octets()), class(n), 0)?;
            }
        }
    }
    Ok(())
}

/// Reads source address and destination port, varies both as the generated programs do, and looks
/// them up.
fn code(family: Family, stage: Stage) -> anyhow::Result<Code> {
    // Offsets in the frame: source address (its last 32 bits), destination port, end of what is
    // read.
    let (source, port, end, words) = match family {
        Family::V4 => (26, 36, 54, 1),
        Family::V6 => (22, 56, 74, 4),
    };
    let mut a = Asm::new();
    let (deny, permit) = (a.label(), a.label());
    a.note("parse");
    a.load(Size::W, R2, R1, DATA);
    a.load(Size::W, R3, R1, DATA_END);
    a.mov(R4, R2);
    a.alu(Alu::Add, R4, end);
    a.jump_if(Cond::Gt, R4, R3, deny);
    a.load(Size::H, R7, R2, port);
    a.swap(R7, 16);
    // The trie's key: prefix length, then the address as in the packet.
    a.store(Size::W, Fp, -24, i32::from(family.bits()));
    for word in 0..words {
        a.load(Size::W, R4, R2, source + 4 * word);
        a.store(Size::W, Fp, -20 + 4 * word, R4);
    }
    let low = -20 + 4 * (words - 1);
    a.note("another remote and port");
    a.map_value(R1, MapRef::Extra(COUNTER), 0);
    a.load(Size::W, R2, R1, 0);
    a.mov(R3, R2);
    a.alu32(Alu::Add, R3, 1);
    a.store(Size::W, R1, 0, R3);
    a.alu32(Alu::Mul, R2, 0x9e37_79b1_u32 as i32);
    a.alu32(Alu::And, R2, (REMOTES - 1) as i32);
    a.mov(R3, R2);
    a.alu32(Alu::Mul, R3, 0x85eb_ca6b_u32 as i32);
    a.alu32(Alu::Rsh, R3, 8);
    a.alu32(Alu::And, R3, 0x3ff);
    a.alu(Alu::Xor, R7, R3);
    a.swap(R2, 32);
    a.load(Size::W, R3, Fp, low);
    a.alu32(Alu::Xor, R3, R2);
    a.store(Size::W, Fp, low, R3);
    if stage == Stage::Full {
        let lookup = |a: &mut Asm, map: u8, key: i16| {
            a.map(R1, MapRef::Extra(map));
            a.mov(R2, Fp);
            a.alu(Alu::Add, R2, i32::from(key));
            a.call(LOOKUP);
            a.jump_if(Cond::Eq, R0, 0, deny);
            a.load(Size::W, R0, R0, 0);
        };
        a.note("remote: address -> class");
        lookup(&mut a, REMOTE, -24);
        a.mov(R8, R0);
        a.note("port: protocol, port -> port class");
        a.alu(Alu::Or, R7, 6 << 16);
        a.store(Size::W, Fp, -32, R7);
        lookup(&mut a, PORT, -32);
        a.mov(R9, R0);
        a.note("row: set, class -> row");
        a.alu(Alu::Or, R8, 1 << 16);
        a.store(Size::W, Fp, -32, R8);
        lookup(&mut a, ROW, -32);
        a.note("verdict: row, port class");
        a.alu(Alu::Lsh, R0, 16);
        a.alu(Alu::Or, R0, R9);
        a.store(Size::W, Fp, -32, R0);
        lookup(&mut a, VERDICT, -32);
    }
    a.jump(permit);
    a.bind(permit);
    a.mov(R0, NEXT);
    a.exit();
    a.bind(deny);
    a.mov(R0, SHOT);
    a.exit();
    Ok(a.finish()?)
}
