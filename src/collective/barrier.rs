//! Dissemination barrier (Hensgen, Finkel and Manber 1988): log2(size) rounds.

use super::Context;
use crate::error::Result;
use crate::memory::View;

/// Returns when every rank has called it.
pub async fn barrier(context: Context) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    let nothing = View::empty();
    let mut distance = 1;
    while distance < size {
        let received = context.receive((rank + size - distance) % size, &nothing)?;
        let sent = context.send((rank + distance) % size, &nothing)?;
        received.await?;
        sent.await?;
        distance *= 2;
    }
    Ok(())
}
