"""How sentences are judged, in words: the same wherever verdicts are shown."""

ELSEWHERE = (
    "What this run says about a sentence is about these data and models, and nothing about its truth on the paper's."
    " Numbers of epochs in sentences and formulas are the paper's."
)
READING = (
    "Each sentence is read as a formula over the tables' numbers; claims.yaml, beside the paper's tables, has them as"
    " data, with the rules of reading. It gets two verdicts that do not depend on each other."
)
RULES = (
    "The paper's tables: whether the formula holds for the figures that the paper itself prints, by exact arithmetic. A"
    " printed number stands for what rounds to it, a range for what lies within its ends.",
    "This run: supported if the whole 95 % t interval of the mean over seeds (in brackets) lies where the formula wants"
    " it, contradicted if it lies wholly outside, otherwise not enough evidence; so too with one seed, with missing"
    " cells, or if all seeds gave the same number.",
    "The formula is worked out seed by seed: differences are paired, and a mean, ratio or trend is that of one seed, so"
    " that a ratio's mean over seeds is not the ratio of means. All seeds share their teachers, so the intervals are"
    " for these teachers. An interval knows nothing of bounds such as a trend's, -1 and 1.",
    "A sentence with a printed number is held to its digits: other data contradict it or leave it open, and hardly ever"
    " support it.",
    "A claim about each of k numbers is supported if every one is, which needs no correction, and contradicted if one"
    " is at a confidence of 1 - 0.05 / k (corrected, by Bonferroni); a claim about some of them the other way round."
    " There is no correction for the number of claims.",
)
