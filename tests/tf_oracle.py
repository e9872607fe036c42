#!/usr/bin/env python3
"""Run TensorFlow's own KMeans graph class on a .npy file and record every step.

Oracle for comparing this project with the seed system (the class that was
tf.contrib.factorization.KMeans and still ships in TensorFlow 2.x as
tensorflow.python.ops.clustering_ops.KMeans).  Needs TensorFlow (CPU is enough):

    pip install tensorflow-cpu

Examples
    # 5 Lloyd iterations from given centers
    tf_oracle.py --points x.npy --centers c.npy --mode full --iterations 5 --out o.npz
    # 3 iterations of 4 mini-batch steps each, explicit batches in a given order
    tf_oracle.py --points x.npy --centers c.npy --mode mini --iterations 3 \
        --steps-per-iteration 4 --batches rows.npy --metric cosine --out o.npz
    # let TensorFlow initialise (see --seed), no training
    tf_oracle.py --points x.npy --init kmeans_plus_plus --num-clusters 8 \
        --iterations 0 --out o.npz
    tf_oracle.py --self-test

--order (mini mode only)
    documented  (default) the update rule as the seed documents it.  The shipped
                graph leaves two pairs of operations unordered, so its results
                change from run to run; here they are ordered:
                  1. the old counts are read before the counts are increased
                     (one control edge);
                  2. when an iteration ends, the centers are published before
                     the next batch is assigned (TensorFlow's own sync op is
                     run in a session call of its own).
    as_shipped  the untouched graph.  `rate_rule` and `assigned_with` tell what
                each step turned out to do.

Arrays in the output .npz (T steps, k centers, d columns)
    centers          [T+1,k,d] the published variable `clusters`; [0] is the start
    updated          [T+1,k,d] the working copy (same as centers when S == 1 / full)
    counts           [T+1,k]   the count variable (mini mode)
    iteration_centers[I+1,k,d] the centers that iteration i ends with: for S > 1
                     they are published only when the next step starts, so the
                     last one is flushed with TensorFlow's own sync op
    step_idx, step_scores, step_offsets   assignment and score of every row of
                     step t: slice [step_offsets[t]:step_offsets[t+1]]
    step_loss        [T]  sum of the step's scores (taken before its update)
    synced           [T]  the step published the previous iteration's centers
    assigned_with    [T]  'pre'/'post' the sync, '-' if the step had none,
                     '?' if both give the same assignment
    rate_rule        [T]  'n+k' (documented), 'n+2k' (counts read too late), '?'
    cluster_idx, scores [n]   final inference over all points; all_scores with
                     --all-scores [n,k]
    final_centers    what that inference used (before normalisation for cosine)
    meta             JSON with the settings and versions
"""

import argparse
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

_TF = {}


def _tf(resource_vars=False):
    """Imports TensorFlow once, in graph mode."""
    if not _TF:
        import tensorflow as tf
        from tensorflow.python.ops import clustering_ops

        v1 = tf.compat.v1
        if resource_vars:
            v1.disable_eager_execution()
        else:
            v1.disable_v2_behavior()  # reference variables, as in TF 1.x
        v1.logging.set_verbosity(v1.logging.ERROR)
        _TF.update(tf=tf, v1=v1, ops=clustering_ops)
    return _TF["tf"], _TF["v1"], _TF["ops"]


def _root(tensor):
    """The operation that owns the variable behind a tensor."""
    op = tensor.op
    while op.type in ("Identity", "ReadVariableOp") and op.inputs:
        op = op.inputs[0].op
    return op


def _probe_class(ops, v1, order_counts):
    """KMeans that exposes its sync op and, if asked, orders the count read."""

    class Probe(ops.KMeans):
        sync_op = None

        def _mini_batch_sync_updates_op(self, *args, **kwargs):
            self.sync_op = super()._mini_batch_sync_updates_op(*args, **kwargs)
            return self.sync_op

        def _mini_batch_training_op(self, inputs, cluster_idx_list, cluster_centers, total_counts):
            graph = v1.get_default_graph()
            before = {op.name for op in graph.get_operations()}
            result = super()._mini_batch_training_op(
                inputs, cluster_idx_list, cluster_centers, total_counts
            )
            if order_counts:
                new = [op for op in graph.get_operations() if op.name not in before]
                owner = (
                    total_counts.handle.op if hasattr(total_counts, "handle") else total_counts.op
                )
                reads = [op for op in new if "Gather" in op.type and _root(op.inputs[0]) is owner]
                writes = [
                    op for op in new if "ScatterAdd" in op.type and _root(op.inputs[0]) is owner
                ]
                if len(reads) != 1 or len(writes) != 1:
                    raise RuntimeError(
                        "expected one read and one write of the counts, found "
                        f"{len(reads)} and {len(writes)} (one input tensor only)"
                    )
                writes[0]._add_control_input(reads[0])
            return result

    return Probe


def _unit(x):
    """TensorFlow's l2_normalize: a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.maximum((x * x).sum(1, keepdims=True), 1e-12))


def _nearest(x, c, metric):
    """Assignment in float64, used only to tell which centers a step used."""
    x, c = np.asarray(x, np.float64), np.asarray(c, np.float64)
    if metric == "cosine":
        x, c = _unit(x), _unit(c)
    return (0.5 * (c * c).sum(1) - x @ c.T).argmin(1)


def _rate_rule(x, idx, old, got, n, metric):
    """Which denominator explains the change of the working copy."""
    x = _unit(x) if metric == "cosine" else np.asarray(x, np.float64)
    k = len(old)
    m = np.bincount(idx, minlength=k).astype(np.float64)
    s = np.zeros_like(old, np.float64)
    np.add.at(s, idx, x)
    hit = m > 0
    scale = 1.0 + np.abs(got).max()
    wants, errors = {}, {}
    for name, den in (("n+k", n + m), ("n+2k", n + 2 * m)):
        want = old.astype(np.float64).copy()
        want[hit] += (s[hit] - m[hit, None] * want[hit]) / den[hit, None]
        wants[name], errors[name] = want, float(np.abs(want - got).max())
    best = min(errors, key=errors.get)
    apart = float(np.abs(wants["n+k"] - wants["n+2k"]).max())
    if errors[best] > 1e-4 * scale or apart < 3e-6 * scale:
        return "?"  # neither rule explains it, or float32 cannot tell them apart
    return best


def run_oracle(
    points,
    centers=None,
    *,
    init=None,
    num_clusters=None,
    metric="squared_euclidean",
    mode="full",
    iterations=1,
    steps_per_iteration=1,
    batches=None,
    batch_size=None,
    shards=1,
    seed=None,
    num_retries=2,
    kmc2_chain_length=200,
    order="documented",
    resource_vars=False,
    all_scores=False,
    max_init_runs=1000,
):
    """Runs the class and returns a dict of arrays; see the module docstring.

    batches: list of row-index arrays, one a step, reused from the start when
    there are more steps than arrays.  Without it, consecutive slices of
    batch_size rows are taken, starting again at row 0 when fewer are left.
    seed: the *graph* seed.  (The class's own random_seed argument has no
    effect in TensorFlow 2.x, so it is not offered.)
    """
    tf, v1, ops = _tf(resource_vars)
    points = np.ascontiguousarray(points, np.float32)
    n, dim = points.shape
    mini = mode == "mini"
    s_per_iter = int(steps_per_iteration) if mini else 1
    two_copies = mini and s_per_iter > 1
    documented = mini and order == "documented"
    if (centers is None) == (init is None):
        raise ValueError("give either centers or init")
    if mini and shards != 1:
        raise ValueError("shards is for mode='full'")
    if mini and batches is None and not batch_size:
        raise ValueError("mini mode needs batches or batch_size")

    graph = tf.Graph()
    with graph.as_default():
        if seed is not None:
            v1.set_random_seed(seed)
        holders = [v1.placeholder(tf.float32, [None, dim]) for _ in range(shards)]
        start = np.ascontiguousarray(centers, np.float32) if centers is not None else init
        model = _probe_class(ops, v1, documented)(
            holders if shards > 1 else holders[0],
            num_clusters if num_clusters is not None else len(start),
            initial_clusters=start,
            distance_metric=metric,
            use_mini_batch=mini,
            mini_batch_steps_per_iteration=s_per_iter,
            kmeans_plus_plus_num_retries=num_retries,
            kmc2_chain_length=kmc2_chain_length,
        )
        t_all, t_idx, t_scores, t_ready, t_init, t_train = model.training_graph()
        var = {v.name.split(":")[0]: v for v in v1.global_variables()}
        sync_op = model.sync_op if two_copies else None
        bump = None
        if two_copies and documented:
            left_in = v1.placeholder(tf.int64, [])
            bump = v1.assign(var["update_in_steps"], left_in)
        init_vars = v1.global_variables_initializer()

    count_name = next(
        (
            v
            for v in var
            if v not in ("clusters", "initialized", "clusters_updated", "update_in_steps")
        ),
        None,
    )
    # A pool of the session's own: the intra-op pool of the process is shared by
    # all its sessions and keeps the size the first one asked for.
    config = v1.ConfigProto(inter_op_parallelism_threads=1, intra_op_parallelism_threads=1)

    def feed(rows):
        parts = np.array_split(points[rows], shards)
        return dict(zip(holders, parts))

    everything = slice(None)
    record = {
        key: []
        for key in (
            "centers",
            "updated",
            "counts",
            "step_idx",
            "step_scores",
            "step_loss",
            "synced",
            "assigned_with",
            "rate_rule",
            "iteration_centers",
        )
    }

    with v1.Session(graph=graph, config=config) as sess:

        def value(name):
            return np.array(sess.run(var[name]))

        sess.run(init_vars)
        init_runs = 0
        while not sess.run(t_ready):
            if init_runs >= max_init_runs:
                raise RuntimeError("initialisation did not finish")
            sess.run(t_init, feed(everything))
            init_runs += 1

        def snapshot():
            c = value("clusters")
            record["centers"].append(c)
            record["updated"].append(value("clusters_updated") if two_copies else c)
            if mini:
                record["counts"].append(value(count_name))

        snapshot()
        record["iteration_centers"].append(record["centers"][0])
        position = 0
        for step in range(iterations * s_per_iter):
            if not mini:
                rows = everything
            elif batches is not None:
                rows = np.asarray(batches[step % len(batches)], np.int64)
            else:
                if position + batch_size > n:
                    position = 0
                rows = np.arange(position, min(position + batch_size, n))
                position += batch_size

            published = record["centers"][-1]
            synced = False
            if two_copies:
                synced = int(value("update_in_steps")) <= 0
                if documented:
                    sess.run(sync_op)
                    # The training op runs the sync op again; give it one step
                    # to count down so that it only restores this value.
                    sess.run(bump, {left_in: int(value("update_in_steps")) + 1})
            work_before = value("clusters_updated") if two_copies else published
            n_before = value(count_name).astype(np.float64) if mini else None
            if synced:
                n_before[:] = 0

            idx, scores, _ = sess.run([t_idx, t_scores, t_train], feed(rows))
            idx, scores = np.concatenate(idx), np.concatenate(scores)
            snapshot()

            record["step_idx"].append(idx)
            record["step_scores"].append(scores)
            record["step_loss"].append(scores.astype(np.float64).sum())
            record["synced"].append(synced)
            x = points[rows]
            if synced:
                pre = (_nearest(x, published, metric) == idx).mean()
                post = (_nearest(x, record["centers"][-1], metric) == idx).mean()
                record["assigned_with"].append(
                    "?" if pre == post else "pre" if pre > post else "post"
                )
                record["iteration_centers"].append(record["centers"][-1])
            else:
                record["assigned_with"].append("-")
            record["rate_rule"].append(
                _rate_rule(x, idx, work_before, record["updated"][-1], n_before, metric)
                if mini
                else "-"
            )
            if not two_copies:
                record["iteration_centers"].append(record["centers"][-1])

        if two_copies and iterations:
            sess.run(sync_op)  # publishes the last iteration
            record["iteration_centers"].append(value("clusters"))
        final = value("clusters")
        fetch = [t_idx, t_scores] + ([t_all] if all_scores else [])
        out = sess.run(fetch, feed(everything))
        final_idx, final_scores = (np.concatenate(part) for part in out[:2])

    result = {
        key: np.array(record[key])
        for key in (
            "centers",
            "updated",
            "step_loss",
            "synced",
            "assigned_with",
            "rate_rule",
            "iteration_centers",
        )
    }
    if mini:
        result["counts"] = np.array(record["counts"])
    sizes = [len(part) for part in record["step_idx"]]
    result["step_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    result["step_idx"] = np.concatenate(record["step_idx"]) if sizes else np.zeros(0, np.int64)
    result["step_scores"] = (
        np.concatenate(record["step_scores"]) if sizes else np.zeros(0, np.float32)
    )
    result.update(cluster_idx=final_idx, scores=final_scores, final_centers=final)
    if all_scores:
        result["all_scores"] = np.concatenate(out[2])
    result["meta"] = np.array(
        json.dumps(
            dict(
                tensorflow=tf.__version__,
                numpy=np.__version__,
                metric=metric,
                mode=mode,
                iterations=iterations,
                steps_per_iteration=s_per_iter,
                shards=shards,
                order=order if mini else "-",
                resource_vars=bool(resource_vars),
                init=init if init is not None else "given",
                init_runs=init_runs,
                seed=seed,
                num_retries=num_retries,
                kmc2_chain_length=kmc2_chain_length,
                n=n,
                dim=dim,
                k=len(final),
            )
        )
    )
    return result


# --------------------------------------------------------------------- checks


def _reference(points, centers, metric, mode, iterations, s_per_iter, batches):
    """The documented rules in float64, independent of TensorFlow."""
    x = _unit(points) if metric == "cosine" else points.astype(np.float64)
    c = _unit(centers) if metric == "cosine" else centers.astype(np.float64)
    k = len(c)
    keep_unit = metric == "cosine" and (mode == "full" or s_per_iter > 1)
    work = c.copy()
    count = np.ones(k) if s_per_iter == 1 else np.zeros(k)
    history = [c.copy()]

    def sums(rows):
        near = _nearest(x[rows], c, metric)
        s, m = np.zeros_like(c), np.bincount(near, minlength=k).astype(float)
        np.add.at(s, near, x[rows])
        return s, m

    step = 0
    for _ in range(iterations):
        if mode == "full":
            s, m = sums(slice(None))
            c = s / (m[:, None] + 1e-6)
        else:
            if s_per_iter > 1:
                count[:] = 0
            for _ in range(s_per_iter):
                s, m = sums(np.asarray(batches[step % len(batches)]))
                step += 1
                hit = m > 0
                work[hit] += (s - m[:, None] * work)[hit] / (count + m)[hit, None]
                count += m
                if s_per_iter == 1:
                    c = work.copy()
            c = work.copy()
        if keep_unit:
            c = _unit(c)
        history.append(c.copy())
    return np.array(history)


def self_test():
    rng = np.random.RandomState(7)
    worst = 0.0
    failures = []

    def check(name, ok, detail=""):
        print(("ok   " if ok else "FAIL ") + name, detail)
        if not ok:
            failures.append(name)

    mix = rng.randn(5, 4) * 4
    points = (mix[rng.randint(5, size=600)] + rng.randn(600, 4)).astype(np.float32)
    start = points[rng.choice(600, 5, replace=False)]
    batches = [rng.permutation(600)[:60] for _ in range(12)]
    for metric in ("squared_euclidean", "cosine"):
        for mode, s in (("full", 1), ("mini", 1), ("mini", 4)):
            got = run_oracle(
                points,
                start,
                metric=metric,
                mode=mode,
                iterations=3,
                steps_per_iteration=s,
                batches=batches,
                all_scores=True,
            )
            want = _reference(points, start, metric, mode, 3, s, batches)
            err = float(np.abs(got["iteration_centers"] - want).max())
            worst = max(worst, err)
            check(
                f"{metric} {mode} S={s} matches float64 reference",
                err < 1e-3 and got["iteration_centers"].shape == want.shape,
                f"max error {err:.2e}",
            )
            if mode == "mini":
                rules = set(got["rate_rule"].tolist())
                check(
                    f"{metric} mini S={s} steps follow n+k",
                    "n+k" in rules and "n+2k" not in rules,
                    str(sorted(rules)),
                )
            if s > 1:
                check(
                    f"{metric} mini S={s} assigns after the sync",
                    "pre" not in got["assigned_with"],
                    str(got["assigned_with"].tolist()),
                )
            near = got["all_scores"].argmin(1)
            check(
                f"{metric} {mode} S={s} final idx and scores agree",
                (near == got["cluster_idx"]).mean() > 0.999
                and np.allclose(got["all_scores"].min(1), got["scores"], atol=1e-3),
            )
    one = run_oracle(points, start, iterations=3)
    three = run_oracle(points, start, iterations=3, shards=3)
    check(
        "sharded full batch equals unsharded",
        np.allclose(one["centers"], three["centers"], atol=1e-4),
    )
    again = [
        run_oracle(points, start, mode="mini", iterations=3, steps_per_iteration=4, batches=batches)
        for _ in range(4)
    ]
    check(
        "documented order repeats bit for bit",
        all(np.array_equal(a["updated"], again[0]["updated"]) for a in again),
    )
    far = np.vstack([start[:4], [[500.0] * 4]]).astype(np.float32)
    full = run_oracle(points, far, iterations=1)
    part = run_oracle(points, far, mode="mini", batches=batches)
    check("empty cluster: full batch sets it to zero", not full["final_centers"][4].any())
    check("empty cluster: mini batch keeps it", np.array_equal(part["final_centers"][4], far[4]))
    for init in ("random", "kmeans_plus_plus", "kmc2"):
        r = run_oracle(points, init=init, num_clusters=5, iterations=0, seed=3)
        rows = (points[:, None] == r["final_centers"][None]).all(2).any(0)
        check(
            f"init {init} picks input rows",
            bool(rows.all()),
            f"init_op ran {json.loads(str(r['meta']))['init_runs']} times",
        )
    rules = set()
    for _ in range(6):
        r = run_oracle(
            points, start, mode="mini", iterations=2, batches=batches, order="as_shipped"
        )
        rules |= set(r["rate_rule"].tolist())
    print("note as_shipped S=1 used the rules", sorted(rules))
    print(
        f"worst error {worst:.2e};",
        "FAILED: " + ", ".join(failures) if failures else "all checks passed",
    )
    return 1 if failures else 0


def _load_batches(path):
    data = np.load(path, allow_pickle=False)
    if isinstance(data, np.ndarray):
        return [row for row in np.atleast_2d(data)]
    names = sorted(data.files, key=lambda s: (len(s), s))
    return [data[name] for name in names]


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--self-test", action="store_true")
    p.add_argument("--points", help=".npy, [n,d]; used as float32")
    p.add_argument("--centers", help=".npy, [k,d] starting centers")
    p.add_argument("--init", choices=["random", "kmeans_plus_plus", "kmc2"])
    p.add_argument("--num-clusters", type=int)
    p.add_argument("--seed", type=int, help="graph seed for --init")
    p.add_argument("--num-retries", type=int, default=2)
    p.add_argument("--kmc2-chain-length", type=int, default=200)
    p.add_argument("--metric", default="squared_euclidean", choices=["squared_euclidean", "cosine"])
    p.add_argument("--mode", default="full", choices=["full", "mini"])
    p.add_argument("--iterations", type=int, default=1)
    p.add_argument("--steps-per-iteration", type=int, default=1)
    p.add_argument(
        "--batches",
        help=".npy [T,b] of row numbers, or .npz with one "
        "array a step in the order of its (numeric) names",
    )
    p.add_argument("--batch-size", type=int)
    p.add_argument("--shards", type=int, default=1)
    p.add_argument("--order", default="documented", choices=["documented", "as_shipped"])
    p.add_argument(
        "--resource-vars",
        action="store_true",
        help="TF 2 variables instead of TF 1 reference variables",
    )
    p.add_argument("--all-scores", action="store_true")
    p.add_argument("--out")
    a = p.parse_args(argv)
    if a.self_test:
        _tf(a.resource_vars)
        return self_test()
    if not a.points or not a.out:
        p.error("--points and --out are needed")
    result = run_oracle(
        np.load(a.points),
        np.load(a.centers) if a.centers else None,
        init=a.init,
        num_clusters=a.num_clusters,
        metric=a.metric,
        mode=a.mode,
        iterations=a.iterations,
        steps_per_iteration=a.steps_per_iteration,
        batches=_load_batches(a.batches) if a.batches else None,
        batch_size=a.batch_size,
        shards=a.shards,
        seed=a.seed,
        num_retries=a.num_retries,
        kmc2_chain_length=a.kmc2_chain_length,
        order=a.order,
        resource_vars=a.resource_vars,
        all_scores=a.all_scores,
    )
    np.savez(a.out, **result)
    print(str(result["meta"]))
    print("score", float(result["scores"].astype(np.float64).sum()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
