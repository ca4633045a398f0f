package dev.emberfleet;

/**
 * What a network says about one image: at each position a probability for each label. Most models have one position;
 * one that reads five digits has five.
 */
public final class EmberResult {
    private final String[] labels;
    private final float[] scores;

    EmberResult(String[] labels, float[] scores) {
        this.labels = labels;
        this.scores = scores;
    }

    /** How many classes the image holds. */
    public int positions() {
        return scores.length / labels.length;
    }

    /** All labels, in the order of the scores. */
    public String[] labels() {
        return labels.clone();
    }

    /** The probabilities, those of one position behind the other; each position's add up to 1. */
    public float[] scores() {
        return scores.clone();
    }

    /** The most probable label of the first position. */
    public String label() {
        return label(0);
    }

    /** The most probable label of a position. */
    public String label(int position) {
        return labels[best(position)];
    }

    /** How probable the first position's label is, 0 to 1. */
    public float score() {
        return score(0);
    }

    /** How probable a position's label is, 0 to 1. */
    public float score(int position) {
        return scores[position * labels.length + best(position)];
    }

    private int best(int position) {
        int from = position * labels.length;
        int best = 0;
        for (int i = 1; i < labels.length; i++) {
            if (scores[from + i] > scores[from + best]) {
                best = i;
            }
        }
        return best;
    }
}
