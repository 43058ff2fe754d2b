"""Random numbers that belong to a row, not to its place in an array.

A key here is four words, (k0, k1, row, half). Its bits at position i are the threefry-2x32 block of
the counter (row, i) under (k0, k1), so under `jax.vmap` over rows any sampler draws for each row
what it would draw for that row alone, and a key for a row costs nothing to make. The first two
words come from the call's key, the number of the draw and the name of the site.

A block has 64 bits, and most samplers take 32 of them for a number: the first half, unless the
key says the second. Two draws may share a block by keys that differ in their half alone.

The block function is that of Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as
easy as 1, 2, 3", with 20 rounds; they are unrolled, which XLA fuses into one loop over elements.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jax.typing import ArrayLike

from aimz.arrays import Array
from aimz.errors import InputError
from aimz.programs.caches import Cache

__all__ = [
    "NO_ROW",
    "Draw",
    "as_key",
    "as_stock_key",
    "call_words",
    "draw_words",
    "fold_words",
    "name_words",
    "pair_words",
    "site_key",
]


#: Row number of the keys of sites that belong to no row.
NO_ROW = np.uint32(0xFFFFFFFF)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_STOCK = "threefry2x32"
# Keep the counters of bits, folded keys and split keys apart, and what halves take whole.
_FOLD, _SPLIT, _HALF = np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
# Words of seeds: what JAX makes of one depends on these settings too.
_SEEDS: Cache[tuple[Any, ...], bytes] = Cache(limit=256)


class Draw(NamedTuple):
    """Numbers of draws, two and two: draw `2 * pair + half`."""

    pair: Any  # uint32
    half: Any  # uint32, 0 or 1

    @classmethod
    def numbered(cls, numbers: Array) -> Self:
        """Draws by their numbers."""
        return cls(numbers >> np.uint32(1), numbers & np.uint32(1))

    @property
    def number(self) -> Any:
        return (self.pair << np.uint32(1)) | self.half


def as_key(rng_key: Any, *numbers: int) -> jax.Array:
    """Typed JAX key from an int, a typed key or a legacy key of two words.

    With numbers, another key for each tuple of them; it is hashed, so that nothing is compiled.

    >>> as_key(0) == jax.random.key(0)
    Array(True, dtype=bool)
    """
    key = _typed(rng_key)
    if not numbers:
        return key
    words = jax.device_put(_hashed(_words_of(key), *numbers))  # `jnp.asarray` compiles
    return jax.random.wrap_key_data(words, impl=_STOCK)


def _typed(rng_key: Any) -> jax.Array:
    if isinstance(rng_key, int | np.integer) and not isinstance(rng_key, bool):
        bits = 8 * jax.dtypes.canonicalize_dtype(np.int64).itemsize
        if not -(2 ** (bits - 1)) <= rng_key < 2**bits:
            msg = (
                f"rng_key={rng_key!s:.30} is beyond {bits} bits, and JAX would cut it to another. "
                "Pass a smaller number, or a key such as jax.random.key(0)."
            )
            raise InputError(msg, code="rng-key")
        stock = jax.config.jax_default_prng_impl == _STOCK and not jax.config.jax_random_seed_offset
        if not stock or rng_key >= 2**63:
            return jax.random.key(int(rng_key))
        # JAX compiles two programs for what are the bits of the seed.
        words = [int(rng_key) >> 32 if bits == 64 else 0, int(rng_key)]
        return jax.random.wrap_key_data(jax.device_put(np.array(words).astype(np.uint32)))
    if hasattr(rng_key, "dtype") and jax.dtypes.issubdtype(rng_key.dtype, jax.dtypes.prng_key):
        if rng_key.shape == ():
            return jnp.asarray(rng_key)
    elif hasattr(rng_key, "dtype") and rng_key.dtype == np.uint32 and rng_key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(rng_key))
    msg = f"rng_key must be an int or one JAX key such as jax.random.key(0), not {rng_key!r:.60}."
    raise InputError(msg, code="rng-key")


def call_words(rng_key: int | np.integer | jax.Array, *numbers: int) -> np.ndarray:
    """Two words of one call, from its key, or from the one that `as_key` makes with numbers.

    >>> key = as_key(0, 3)
    >>> bool((call_words(0, 3) == call_words(key)).all())
    True
    """
    words = _words_of(rng_key)
    return _hashed(_hashed(words, *numbers).tobytes() if numbers else words)


def _words_of(rng_key: int | np.integer | jax.Array) -> bytes:
    """All words of a key, or of the key that JAX makes of a seed."""

    def make() -> bytes:
        return np.asarray(jax.random.key_data(_typed(rng_key))).tobytes()

    if not isinstance(rng_key, int | np.integer):
        return make()
    config: Any = jax.config
    settings = config.jax_enable_x64, config.jax_default_prng_impl, config.jax_random_seed_offset
    return _SEEDS.get_or_make((type(rng_key), int(rng_key), *settings), make)


def _hashed(words: bytes, *numbers: int) -> np.ndarray:
    digest = hashlib.blake2b(words, digest_size=8)
    digest.update(repr(tuple(map(int, numbers))).encode())
    return np.frombuffer(digest.digest(), "<u4")


def draw_words(words: jax.Array, draw: ArrayLike) -> jax.Array:
    """Two words of one draw of a call."""
    return fold_words(words, jnp.uint32(0), jnp.asarray(draw, np.uint32))


def pair_words(words: jax.Array, pair: ArrayLike) -> jax.Array:
    """Two words that the draws of a pair share; no draw has them for its own."""
    return fold_words(words, jnp.uint32(1), jnp.asarray(pair, np.uint32))


def name_words(name: str) -> tuple[np.uint32, np.uint32]:
    """Two words that stand for a name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    low, high = np.frombuffer(digest, "<u4")
    return np.uint32(low), np.uint32(high)


def fold_words(words: Array, low: ArrayLike, high: ArrayLike) -> jax.Array:
    """Two new words from two words and a pair of numbers."""
    return jnp.stack(_threefry(words[0], words[1], jnp.uint32(low), jnp.uint32(high)))


def site_key(
    words: jax.Array, name: str, row: ArrayLike = NO_ROW, half: ArrayLike = 0
) -> jax.Array:
    """Key of a site in one draw, for one row or for none.

    Parameters
    ----------
    words : Array, shape (2,)
        Words of the draw, or of a pair of draws.
    name : str
        Name of the site.
    row : uint32 scalar
        Global number of the row.
    half : uint32 scalar
        Which draw of the pair.
    """
    site = fold_words(words, *name_words(name))
    rest = jnp.stack([jnp.asarray(row, np.uint32), jnp.asarray(half, np.uint32)])
    return jax.random.wrap_key_data(jnp.concatenate([site, rest]), impl=ROW_PRNG)


def as_stock_key(key: jax.Array) -> jax.Array:
    """JAX's own threefry key made from one of ours, for samplers that insist on it (Poisson)."""
    data = jax.random.key_data(jax.random.fold_in(key, 0))
    return jax.random.wrap_key_data(data[..., :2], impl=_STOCK)


@jax.jit  # one equation in a kernel's trace instead of a hundred
def _threefry(k0: Array, k1: Array, x0: Array, x1: Array) -> Any:
    """One threefry-2x32 block, 20 rounds, elementwise over broadcast arguments."""
    k0, k1, x0, x1 = jnp.broadcast_arrays(k0, k1, x0, x1)

    def constant(word: int) -> jax.Array:
        return jnp.full(x0.shape, word, np.uint32)

    parity = lax.bitwise_xor(lax.bitwise_xor(k0, k1), constant(_PARITY))
    keys = (k0, k1, parity)
    x0, x1 = lax.add(x0, keys[0]), lax.add(x1, keys[1])
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = lax.add(x0, x1)
            left = lax.shift_left(x1, constant(distance))
            right = lax.shift_right_logical(x1, constant(32 - distance))
            x1 = lax.bitwise_xor(lax.bitwise_or(left, right), x0)
        x0 = lax.add(x0, keys[(group + 1) % 3])
        x1 = lax.add(lax.add(x1, keys[(group + 2) % 3]), constant(group + 1))
    return x0, x1


def _iota(shape: tuple[int, ...]) -> jax.Array:
    return jnp.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint32).reshape(shape)


def _seed(seed: int) -> jax.Array:
    words = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
    return jnp.concatenate([words, jnp.array([NO_ROW, 0], np.uint32)])


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> Any:
    k0, k1, row, half = key
    if width == 64:
        low, high = _threefry(k0 ^ half * _HALF, k1, row, _iota(shape))
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    low, high = _threefry(k0, k1, row, _iota(shape))
    return jnp.where(half == 0, low, high).astype(getattr(jnp, f"uint{width}"))


def _derived(key: jax.Array, domain: np.uint32, numbers: ArrayLike) -> jax.Array:
    """Keys of row zero whose words depend on the key, its row and `numbers`."""
    k0, k1, row, half = key
    low, high = _threefry(k0 ^ domain ^ half * _HALF, k1, row, numbers)
    zero = jnp.zeros_like(low)
    return jnp.stack([low, high, zero, zero], axis=-1)


def _fold_in(key: jax.Array, data: ArrayLike) -> jax.Array:
    return _derived(key, _FOLD, jnp.asarray(data).astype(np.uint32))


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _derived(key, _SPLIT, _iota(shape))


def _define(functions: dict[str, Callable[..., Any]]) -> Any:
    return define_prng_impl(key_shape=(4,), name="aimz_row", tag="aimz", **functions)


ROW_PRNG = _define(
    {"seed": _seed, "split": _split, "random_bits": _random_bits, "fold_in": _fold_in}
)
