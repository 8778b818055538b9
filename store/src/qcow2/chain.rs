//! Several layers read as one disk.
//! Knows chunks only; which layers belong together is the caller's knowledge.

use std::sync::{Mutex, PoisonError};

use super::error::{ChainError, SourceError};
use super::{CHUNK, ChunkSource, Content, Presence, Qcow2, chunk_range};

/// Layers from the bottom up: the topmost that says something about a chunk wins.
///
/// The disk is as large as the top layer says. A layer that is smaller than the one above reads as zeros behind its end,
/// and hides what the layers below it hold there, as in QEMU.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Qcow2>,
    /// Per layer, how much of it can be seen, in bytes: no more than the smallest of itself and those above.
    visible: Vec<u64>,
    /// Per layer, where the last search began and what it found: the next one mostly goes on from there.
    heads: Mutex<Vec<Option<ChainHead>>>,
}

#[derive(Debug, Clone, Copy)]
struct ChainHead {
    from: u64,
    found: Option<u64>,
}

impl Chain {
    /// Puts layers on each other, the bottom first.
    ///
    /// Errors: no layer, or one above another whose clusters are smaller than a chunk, as it could hold part of one.
    pub fn new(layers: Vec<Qcow2>) -> Result<Chain, ChainError> {
        if layers.is_empty() {
            return Err(ChainError::Empty);
        }
        for (position, layer) in layers.iter().enumerate().skip(1) {
            let cluster_size = layer.header().cluster_size();
            if cluster_size < CHUNK as u64 {
                return Err(ChainError::SmallClusters {
                    position,
                    cluster_size,
                });
            }
        }
        let mut visible: Vec<u64> = layers.iter().map(ChunkSource::virtual_size).collect();
        for position in (0..layers.len() - 1).rev() {
            visible[position] = visible[position].min(visible[position + 1]);
        }
        let heads = Mutex::new(vec![None; layers.len()]);
        Ok(Chain {
            layers,
            visible,
            heads,
        })
    }

    /// The layers, the bottom first.
    pub fn layers(&self) -> &[Qcow2] {
        &self.layers
    }
}

impl ChunkSource for Chain {
    fn virtual_size(&self) -> u64 {
        // `new` refuses an empty chain.
        self.layers.last().map_or(0, ChunkSource::virtual_size)
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next: Option<u64> = None;
        for ((layer, &visible), head) in self.layers.iter().zip(&self.visible).zip(heads.iter_mut())
        {
            let known = head
                .filter(|head| head.from <= from && head.found.is_none_or(|found| found >= from));
            let found = match known {
                Some(head) => head.found,
                None => layer.next_present(from)?,
            };
            *head = Some(ChainHead {
                from: known.map_or(from, |head| head.from),
                found,
            });
            let seen = found.filter(|&index| index < visible.div_ceil(CHUNK as u64));
            next = next.into_iter().chain(seen).min();
        }
        Ok(next)
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        let (start, _) = chunk_range(index, self.virtual_size())?;
        let layers = self.layers.iter().zip(&self.visible).rev();
        for (layer, &visible) in layers.take_while(|&(_, &visible)| start < visible) {
            match layer.presence(index)? {
                Presence::Absent => continue,
                Presence::Zero => break,
                Presence::Data => {
                    let content = layer.read_chunk(index, buffer)?;
                    let length = (visible - start).min(CHUNK as u64) as usize;
                    buffer[length..].fill(0);
                    return Ok(content);
                }
            }
        }
        buffer.fill(0);
        Ok(Content::Zero)
    }
}
