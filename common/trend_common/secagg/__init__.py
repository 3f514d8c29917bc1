"""Secure aggregation: the server learns the sum of the clients' noised deltas of a round, and nothing of one alone.

The protocol is that of Bonawitz et al. 2017 (CCS, "Practical secure aggregation for privacy-preserving machine
learning"), the version against a server that lies, on our own round trip. A round of n clients::

    keys      each sends two fresh X25519 keys and the hash of a fresh seed, signed with its enrolled key
    shares    each gets all keys, checks the signatures against the roster that it pinned, and deals shares of its
              mask key and of its seed (Shamir, t of n), encrypted to each of the others
    masked    each trains, seals its delta in the ledger, and sends it under its pair masks and its self mask
    confirm   each is told whose vectors arrived, and signs that together with all that it saw before
    unmask    each gets t such signatures, and gives one share for each: of the seed for those who arrived, of the
              mask key for those who did not

The server takes the self masks of the survivors and the pair masks of the dropouts off the sum. Full local noise
(:mod:`trend_common.privacy`) stays the guarantee: this is a second lock, and hides from the server what (ε, δ) would
let it learn of a single retailer.

**Why a retailer's delta cannot be had alone.** Both secrets of one client would open its vector, and it takes t
shares of each. A client gives one kind for each member, once. So a server needs 2t shares of n + c, where c clients
work with it and give both: 2t > n + c rules it out. t is more than the plan's ``threshold`` of n, more than half in
any case. With more than two thirds, up to a third may collude. Without the signatures a server could tell every
client of other survivors, and unmask fewer than t of them; with t signatures over one transcript (keys, threshold,
senders, survivors), two transcripts would have t signers each, and 2t > n + c again rules that out.

**Why a round can be tried again, and when not.** A retry has fresh keys, and the ledger gives it the same sealed
bytes. Two sums of the same deltas over different survivors differ by single clients, so no client ever gives a share
in two attempts of one round: it gives them once a round, writes that down first, and refuses every further attempt of
the round. That alone is not enough: those who were not asked in the first attempt could answer a second, smaller one.
So whoever has sent a masked vector in a round remembers the members and the threshold of that attempt, and joins a
further one only among these members and under no smaller threshold. Of n members t answered the first attempt, and t
others would have to answer the second: 2t > n + c once more. The server, after it has asked for shares, asks the same
question again or gives the round up; it does not try the round again.

**What this does not do.** Clients that lie spoil the sum, and the server cannot tell: norms of single clients cannot
be checked. A wrong share is found (what is recovered is compared with the public key or the hash), worked around
where enough right ones are left, and else the round is given up. The operator makes the roster: retailers that do not
exist count among the c, so compare the roster's fingerprint with people you know. Who takes part, and when, is seen.
"""
