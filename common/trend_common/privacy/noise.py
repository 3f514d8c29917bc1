"""Gaussian noise that nobody can replay.

The randomness that hides a series must not come from a seedable generator: whoever knows the seed subtracts the
noise, and the same seed in two rounds gives the same noise twice. Here every draw is the AES-256 key stream (CTR
mode) of a key taken from the operating system at that very call and forgotten after it. There is no state to seed, to
copy, to restore from a checkpoint, or to share with a forked child.

>>> generator = SecureGenerator()
>>> noise = generator.gaussian(100_000)
>>> round(float(noise.std()), 1)
1.0
>>> bool((SecureGenerator().gaussian(4) == SecureGenerator().gaussian(4)).any())
False

A Gaussian draw is the sum of four Box–Muller normals over two (Holohan & Braghin 2021, arXiv:2107.10138), in float64.
That makes the published attacks on the low-order bits of floating-point noise (Mironov 2012; Jin et al. 2022)
impractical; it is a mitigation, not a proof for a discrete mechanism.
"""

from __future__ import annotations

import os
from typing import NoReturn, SupportsIndex

import numpy as np
from numpy.typing import NDArray

__all__ = ["SecureGenerator"]

_SUMMED = 4
"""Normals that are summed into one Gaussian draw; their sum has standard deviation 2."""
_BLOCK = 2**14


class SecureGenerator:
    """A source of uniforms, integers and Gaussians keyed by ``os.urandom`` at every call.

    Safe in threads and in forked children, since it holds no state. It refuses to be pickled or copied, so that
    nothing can come to rely on noise that is stored. Satisfies :class:`trend_common.tensors.UniformSource`.
    """

    __slots__ = ()

    def words(self, size: int) -> NDArray[np.uint64]:
        """[size] independent uniform 64-bit words.

        Raises:
            ValueError: ``size`` is negative.
        """
        if size < 0:
            raise ValueError(f"size is {size}; it must be 0 or more")
        # Imported late: the commands that only read a ledger need no cipher.
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES256
        from cryptography.hazmat.primitives.ciphers.modes import CTR

        encryptor = Cipher(AES256(os.urandom(32)), CTR(os.urandom(16))).encryptor()
        return np.frombuffer(encryptor.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """[size] uniforms in the open interval (0, 1): odd multiples of 2⁻⁵³, so neither 0 nor 1 can occur."""
        odd = (self.words(size) >> np.uint64(12)) * np.uint64(2) + np.uint64(1)
        return odd.astype(np.float64) * 2.0**-53

    def normal(self, size: int) -> NDArray[np.float64]:
        """[size] standard normals by Box–Muller, each from a pair of uniforms of its own."""
        # torch's logarithm and cosine take a fifth of numpy's time. Imported late: what draws no noise needs none.
        import torch

        radius, angle = torch.from_numpy(self.uniform(size)), torch.from_numpy(self.uniform(size))
        # Blocks so small that torch starts no threads, which a forked child might not have.
        for one, other in zip(torch.split(radius, _BLOCK), torch.split(angle, _BLOCK), strict=True):
            one.log_().mul_(-2.0).sqrt_().mul_(other.mul_(2.0 * np.pi).cos_())
        return radius.numpy()

    def gaussian(self, size: int) -> NDArray[np.float64]:
        """[size] standard normals, each the sum of four independent ones over two: the noise of a release."""
        return np.asarray(self.normal(_SUMMED * size).reshape(_SUMMED, size).sum(axis=0) / 2.0)

    def integers(self, low: int, high: int, size: int) -> NDArray[np.int64]:
        """[size] integers uniform on ``low`` ≤ i < ``high``.

        Words beyond the last whole multiple of the range are drawn again, so there is no bias.

        Raises:
            ValueError: The range is empty.
        """
        span = high - low
        if span < 1:
            raise ValueError(f"low is {low} and high is {high}; high must be larger")
        last = (2**64 // span) * span - 1
        words = self.words(size)
        while (rejected := words > np.uint64(last)).any():
            words[rejected] = self.words(int(rejected.sum()))
        return (words % np.uint64(span)).astype(np.int64) + low

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # pickle, copy.copy and copy.deepcopy all come through here.
        raise TypeError("a SecureGenerator is never stored or copied: create a new one where noise is needed")
