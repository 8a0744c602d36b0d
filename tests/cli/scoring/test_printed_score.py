"""The score in what a command printed, as tools of others print it."""

from __future__ import annotations

import pytest

from ensembles_cli.scoring.printed_score import Unclear, read_score

# The end of what lm-eval prints: lm_eval.utils.make_table.
LM_EVAL = """\
| Tasks  |Version|Filter|n-shot| Metric |   |Value |   |Stderr|
|--------|------:|------|-----:|--------|---|-----:|---|-----:|
|hellaswag|      1|none  |     0|acc     |↑  |0.4921|±  |0.0050|
|         |       |none  |     0|acc_norm|↑  |0.5013|±  |0.0103|
"""
SACREBLEU = """\
{
 "name": "BLEU",
 "score": 27.3,
 "signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.3.1",
 "verbose_score": "58.4/33.2/20.1/13.0 (BP = 1.000 ratio = 1.000)",
 "nrefs": "1",
 "version": "2.3.1"
}
"""
TRAINER = """\
***** eval metrics *****
  epoch                   =        3.0
  eval_accuracy           =     0.8578
  eval_loss               =     0.3512
  eval_runtime            = 0:00:01.23
  eval_samples            =        408
  eval_samples_per_second =      331.6
  eval_steps_per_second   =       41.4
"""
REPORT = """\
              precision    recall  f1-score   support

           0       0.86      0.90      0.88       200
    accuracy                           0.86       450
   macro avg       0.86      0.85      0.85       450
weighted avg       0.86      0.85      0.85       450
"""
EVALUATE = """\
{"pairs": 250, "models": {"sts/m0.txt": {"value": 0.9415, "low": 0.887,
"high": 0.9642}}, "difference": null}
"""
LINES = '{"step": 100, "acc": 0.71}\n{"step": 200, "acc": 0.74}\n'


@pytest.mark.parametrize(
    ("printed", "named"),
    [
        (LM_EVAL, "acc_norm"),
        (TRAINER, "eval_steps_per_second"),
        (REPORT, "weighted avg"),
        (EVALUATE, "6 numbers|4 numbers"),
        ("model\tSpearman\t95 % interval\nsts/m0\t94.2\t88.7 to 96.4", "sts/m0"),
        ("BLEU = 27.3 58.4/33.2/20.1/13.0 over 3 seeds", "BLEU"),
        ("map\tall\t0.2345\nP_10\tall\t0.0500\nP_1000\tall\t0.0123", "P_1000"),
        ("accuracy    0.91\nf1          0.85\nName: 3, dtype: float64", "Name: 3"),
        ("  metric  value\n0    acc   0.91\n\n[1 rows x 2 columns]", "rows"),
        ("| acc | f1 |\n|---|---|\n| 0.91 | 0.85 |", "0.85"),
        ("│ acc ┆ 0.91 │\n│ f1  ┆ 0.85 │", "f1"),
        ("wandb:  acc 0.91\nwandb: Synced 5 W&B file(s), 0 media file(s)", "Synced"),
        ("{'eval_loss': 0.5, 'eval_acc': 0.8, 'epoch': 3.0}", "eval_loss"),
        ("acc 0.91\nProcessed 500 examples", "500 examples"),
        ("acc 0.91\nElapsed: 12.5 s", "Elapsed"),
        ("acc 0.91\ntook 12.5 seconds", "12.5 seconds"),
        ("acc 0.91 (0.88, 0.94)", "0.88"),
        ("acc 0.91 [0.88, 0.94]", "0.88"),
        ("acc 0.91, 95% CI 0.88-0.94", "95%"),
        ("loss 0.5 acc 0.8", "loss"),
        ("Average loss: 0.0286, Accuracy: 9914/10000 (99%)", "Accuracy"),
        ("Acc@1 76.130 Acc@5 92.862", "Acc@5"),
        ("313/313 - 1s - loss: 0.07 - accuracy: 0.978 - 2ms/step", "accuracy"),
        ("0.87 (best 0.89)", "best"),
        ("(1, 2)", "2 numbers"),
        ("acc 0.9\n\u65f6\u95f4 12", "2 numbers"),  # words of any script
        ("score 1 of 5", "2 numbers"),
        ("acc 0.9, brier score 0.2", "2 numbers"),
        ("score: 0.5, loss: 2", "2 numbers"),
        ('{"score": "high", "acc": 0.5, "n": 3}', "acc, n"),
        ("0.5 ± 0.1, over all 0.75", "3 numbers"),
        ('{"acc": 0.5, "acc_stderr": 0.01}', "acc, acc_stderr"),
        ("acc,none: 0.5\nacc_stderr,none: 0.01", "acc_stderr"),
        ("score 0.5 |±| 0.02 |", "0.02"),
        ("acc 0.91\nProcess finished with exit code 0", "exit code 0"),
        ("acc 0.91\nlatency: 12.3", "latency"),
        ("BLEU 27.3\nTranslated in 12.3s (244.1 sentences/s)", "244.1"),
        ("bestTest = 0.21\nbestIteration = 57", "bestIteration"),
        ("MRR @10: 0.35\nQueriesRanked: 6980", "QueriesRanked"),
        ("right: 93 of 100", "of 100"),
        ("0.91 acc, 3.2 GB, f1 0.5", "3 numbers"),
        ("[0] 0.91", "2 numbers"),  # of a class
        ("[1]4.1,[2]4.6,[3]5.5", "numbers"),
        ("[99]\ttrain-rmse:0.1\teval-rmse:0.1234", "3 numbers"),
        ("[{'acc': 0.91, 'loss': 0.3}]", "2 numbers"),
        ("Overall -> 5.18 % N=9 C=8\nOther -> 0.00 % N=0 C=0", "Other"),
    ],
)
def test_a_number_that_is_not_clearly_the_score_is_an_error(
    printed: str, named: str
) -> None:
    with pytest.raises(Unclear, match=named) as caught:
        read_score(printed)
    assert "--score-key" in str(caught.value)


@pytest.mark.parametrize(
    ("printed", "score"),
    [
        (" * Acc@1 76.130", 76.13),
        ("step 1000, in 3s: score -4", -4),
        ("R@1: 45.2", 45.2),
        ("score@10: 0.5", 0.5),
        ("top1: 0.76", 0.76),
        ("ROUGE-L: 0.31", 0.31),
        ("F1 (macro): 0.81", 0.81),
        ("Spearman: 94.2", 94.2),
        ("acc: 0.91 of 500\n0.91", 0.91),
        ("epoch 3: loss 0.1, score: 0.91", 0.91),
        (SACREBLEU, 27.3),
        ('{"acc": 0.5}', 0.5),
        ('{"task": "sst2", "metrics": {"acc": 0.5}}', 0.5),
        ("│ acc ┆ 0.91 │", 0.91),
        ("metric\tvalue\nacc\t0.91", 0.91),
        ("[rank0]: accuracy: 0.91", 0.91),
        ("0.91\nDone.\n\n", 0.91),
        ("[{'test_acc': 0.91}]", 0.91),
        ("{'accuracy': np.float64(0.91)}", 0.91),
        ("tf.Tensor(0.91, shape=(), dtype=float32)", 0.91),
        ("batch accuracy = 0.91", 0.91),
        ("explained variance: 0.91", 0.91),
        ("time series MASE: 0.91", 0.91),
        ("samples f1 0.91", 0.91),
        ("mae 1.2 s", 1.2),
        (".5", 0.5),
        ("93.2 %", 93.2),
        ("1e-3", 0.001),
    ],
)
def test_a_number_that_is_clearly_the_score_is_read(printed: str, score: float) -> None:
    assert read_score(printed).value == score


@pytest.mark.parametrize(
    "printed",
    [
        "Accuracy of the network on the 10000 test images: 55 %",
        "Epoch 3/10: acc 0.9",
        "acc: 0.91 (n=500)",
        "acc=0.91, time=3.2",
        "0.91 (std 0.02)",
        "acc: 0.9\nloss: 0.3",
        "05/01/2024 12:13:14 - INFO - __main__ -   eval_acc = 0.91",
        "[2024-05-01 12:13:14] INFO - eval.py:33 - acc = 0.91",
        "[INFO|trainer.py:123] 2024-05-01 12:13:14,123 >> accuracy = 0.91",
        "I0501 12:13:14.123456 139 eval.py:33] accuracy: 0.91",
        "2024-05-01 12:13:14.123 | INFO | __main__:main:33 - accuracy 0.91",
        "[05/01 12:13:14 d2.eval]: AP: 41.2",
        "[12/100] acc 0.91",
        "acc 0.91\n/lib/site.py:33: UserWarning: x\n  warnings.warn(x)",
        "0.91\n[rank0]:[W501 12:13:14.123 ProcessGroupNCCL.cpp:1250] Warning: left",
        "0.91\n\nreal\t0m3.2s\nuser\t0m2.1s\nsys\t0m0.3s\n",
        "0.91\nreal 3.20\nuser 2.10\nsys 0.30\n",
        "BLEU = 27.3 58.4/33.2/20.1/13.0 (BP = 1.000 hyp_len = 65)",
        "BLEU = 27.3, 58.4/33.2/20.1/13.0 (BP=1.000, ratio=1.000)",
        "Generate test with beam=5: BLEU4 = 35.18, 68.6/42.9/28.9/19.8 (BP=1.0)",
        "chrF2|nrefs:1|case:mixed|nc:6|nw:0|space:no|version:2.0.0 = 52.0",
        "TER|nrefs:1|case:lc|tok:tercom|version:2.0.0 = 69.0",
        "BLEU+case.mixed+version.1.4.2 = 27.3 58.4/33.2/20.1/13.0 (BP = 1.0)",
        "%WER 5.18 [ 5425 / 104765, 217 ins, 193 del, 5019 sub ]",
        "[99]\tvalidation_0-logloss:0.1234",
        "[57]\tvalid_0's auc: 0.91",
        "[1] 0.91",
        "tensor(0.91, device='cuda:0')",
        "SignificanceResult(statistic=0.81, pvalue=1e-10)",
        "recall (k=5): 0.61",
        "BLEU (beam 5): 27.3",
        "Accuracy: 0.52 (686/1319)",
        "PSNR: 31.2dB",
        "0.91 acc, 3.2 GB",
    ],
)
def test_of_several_numbers_none_is_taken_for_the_score(printed: str) -> None:
    with pytest.raises(Unclear, match="print the score alone in the last line, or"):
        read_score(printed)


@pytest.mark.parametrize(
    ("printed", "key", "score"),
    [
        (LM_EVAL, "acc_norm", 0.5013),
        (LM_EVAL, "acc", 0.4921),
        (SACREBLEU, "score", 27.3),
        (TRAINER, "eval_accuracy", 0.8578),
        (TRAINER, "eval_acc*", 0.8578),
        (EVALUATE, "models.*.value", 0.9415),
        (LINES, "acc", 0.74),
        ("log\n{\n 'x'\n" + SACREBLEU, "score", 27.3),
        ('{"results": {"h": {"acc_norm,none": 0.5}}}', "results.*.acc_norm,none", 0.5),
        ('{"results": [{"acc": 0.5}]}', "results.0.acc", 0.5),
        ("{'eval_loss': 0.5, 'epoch': 3.0}", "eval_loss", 0.5),
        ("acc: 0.3\nval_acc: 0.4\nacc: 0.5\nacc_std: 0.1", "acc", 0.5),
        ("Acc@1 76.130 Acc@5 92.862", "Acc@1", 76.13),
        ("map\tall\t0.2345\nP_1000\tall\t0.0123", "map*all", 0.2345),
        ("score=-1.5e-3 in 3s", "score", -0.0015),
        ("100 pairs, acc: 0.5, 0.6", "acc", 0.5),
        ("│ acc ┆ 0.91 │\n│ f1  ┆ 0.85 │", "acc", 0.91),
    ],
)
def test_a_key_names_the_score(printed: str, key: str, score: float) -> None:
    found = read_score(printed, key)
    assert found.value == score
    assert f"{score:g}" in found.line.replace("-1.5e-3", "-0.0015")


@pytest.mark.parametrize(
    ("printed", "key", "message"),
    [
        (EVALUATE, "models.*.*", "several numbers .*models.sts/m0.txt.value"),
        ("f1: 0.5", "acc", "printed no number for --score-key acc"),
        ("acc: ± 0.1", "acc", "printed no number"),
        ("acc: nan", "acc", "printed nan, which is not finite"),
        ("acc: 0.5 acc: 0.6", "acc", "several numbers for the key acc in the line"),
        ("acc: 1\u202f234", "acc", "not a plain number"),
        ("acc: 0,95", "acc", "not a plain number"),
        ("acc: \u22120.5", "acc", "not a plain number"),
        ("acc: (\uff0d0.5)", "acc", "not a plain number"),
        ("acc: \u2212 0.5", "acc", "printed no number"),
        (f'{{"acc": 1{"0" * 400}}}', "acc", "printed inf, which is not finite"),
    ],
)
def test_a_key_without_one_score_is_an_error(
    printed: str, key: str, message: str
) -> None:
    with pytest.raises(Unclear, match=message):
        read_score(printed, key)


@pytest.mark.parametrize(
    ("printed", "command", "is_lower"),
    [
        ("loss: 1.275", "python eval.py {}", True),
        ("mse 0.0002", "python eval.py {}", True),
        ("Word error rate: 12.5", "python eval.py {}", True),
        ("perplexity = 9.1", "python eval.py {}", True),
        ("1.275", "./loss.sh {}", True),
        ("acc: 0.5", "./loss.sh {}", False),  # the number has a name of its own
        ("neg_loss: -1.275", "python eval.py {}", False),
        ("0.5", "python eval.py {}", False),
    ],
)
def test_names_of_errors_are_known(printed: str, command: str, is_lower: bool) -> None:
    assert read_score(printed).is_lower_better(command) is is_lower


@pytest.mark.parametrize(
    ("printed", "score"),
    [
        # OpenAgentHQ/openagent-eval#74: the first number of a sentence.
        ("There are 5 reasons why this is a score of 9", None),
        # EleutherAI/lm-evaluation-harness#1701, evaleval/every_eval_ever#285: a
        # standard error that was published as a score.
        ("sciq  acc 0.891  acc_stderr 0.0098", None),
        ('{"acc": 0.2005, "acc_stderr": 0.0117}', None),
        # wandb/senpai#1237: one number of several splits.
        ("mean3=23.2 (in=17.5, ood=14.3, re=27.7)", None),
        ("| p_in | 11.4 | 11.9 | 11.65 |", None),
    ],
)
def test_outputs_of_public_reports_are_read_or_refused(
    printed: str, score: float | None
) -> None:
    if score is None:
        with pytest.raises(Unclear):
            read_score(printed)
    else:
        assert read_score(printed).value == score


@pytest.mark.parametrize(
    ("printed", "score"),
    [
        ("loading\n100 pairs\naccuracy: 0.93", 0.93),
        ("100%|██████████| 10/10\nAccuracy: 0.91", 0.91),
        ("12 files\nval_f1 = 0.8", 0.8),
        ("2 GPUs\nperplexity 12.5", 12.5),
        ("    Test metric      DataLoader 0\n     test_acc        0.9123", 0.9123),
    ],
)
def test_a_metric_alone_in_the_last_line_is_the_score(
    printed: str, score: float
) -> None:
    assert read_score(printed).value == score


@pytest.mark.parametrize(
    "printed",
    [
        "acc: 0.9\nloss: 0.3",  # which of them?
        "12 files\nerror: 3",
        "12 files\nloss after epoch 3",
        "12 files\naccuracy of 5 folds",
        "12 files\nelapsed: 3.5",
    ],
)
def test_other_words_before_the_last_number_are_not_a_metric(printed: str) -> None:
    with pytest.raises(Unclear, match="print the score alone in the last line"):
        read_score(printed)
