"""Which cases of a large table the fast tests take, and how well they compile.

The cases of such a table are of one kind, and each traces or compiles programs of its own. The fast
tests take every so many of them, spread over the table; `make test-all` takes all.

Most of the time of a test is the compiler's, which optimises programs that run once on ten rows. The
fast tests do without, but where digits are the point; `make test-all` compiles all as a user does.
"""

import os
from collections import Counter
from collections.abc import Iterable

import jax
import pytest

from aimz.programs import clear_programs

__all__ = ["Optimising", "optimised", "thin_out"]

EVERY = {
    "tests/capture/test_captured_kernels.py::test_a_kernel_of_another_process_is_the_same_bit_for_bit": 3,
    "tests/data/test_inputs.py::test_a_code_outside_the_table_is_refused_however_it_is_looked_up": 2,
    "tests/diagnostics/test_pictures.py::test_predictive_pictures_are_of_the_outcomes_that_count": 2,
    "tests/effects/test_counterfactuals.py::test_probabilities_are_of_bernoulli_outcomes": 3,
    "tests/effects/test_counterfactuals.py::test_the_world_that_was_is_replayed_as_it_was": 3,
    "tests/effects/test_effects.py::test_the_average_effect_is_that_of_the_dense_arrays": 2,
    "tests/effects/test_reports.py::test_every_form_names_the_scenarios": 2,
    "tests/effects/test_scenario_inputs.py::test_an_effect_of_one_less_is_minus_one": 3,
    "tests/effects/test_scenario_inputs.py::test_functions_of_narrow_sites_do_not_wrap_around": 3,
    "tests/execution/test_cluster.py::test_predictions_are_those_of_one_machine": 2,
    "tests/families/test_abduction.py::test_elsewhere_a_continuous_outcome_keeps_its_quantile": 3,
    "tests/families/test_abduction.py::test_the_noise_of_a_continuous_outcome_gives_it_back": 4,
    "tests/families/test_abduction.py::test_the_noise_of_a_discrete_outcome_gives_it_back": 4,
    "tests/families/test_families.py::test_a_difference_of_angles_is_a_turn_whatever_wraps_them": 2,
    "tests/families/test_families.py::test_a_prior_without_a_sampler_fits": 3,
    "tests/families/test_families.py::test_log_densities_are_those_of_scipy_in_single_precision": 4,
    "tests/families/test_families.py::test_log_densities_on_and_beyond_the_border": 4,
    "tests/families/test_families.py::test_outcomes_that_a_family_cannot_take_are_refused_before_a_fit": 4,
    "tests/families/test_state_space.py::test_densities_are_those_of_the_dense_normal": 4,
    "tests/families/test_state_space.py::test_moments_are_those_of_the_dense_normal": 3,
    "tests/families/test_state_space.py::test_what_is_known_moves_a_draw_as_the_dense_normal": 2,
    "tests/identification/test_assumptions.py::test_roles_and_words_follow_from_the_kernel": 4,
    "tests/inference/test_engines.py::test_an_svi_whose_guide_has_seen_the_data_is_at_hand": 3,
    "tests/inference/test_fit_health.py::test_rare_events_are_said_where_common_ones_are_fine": 3,
    "tests/inference/test_many_sites.py::test_the_density_of_like_sites_is_the_sum_of_theirs": 3,
    "tests/inference/test_many_sites.py::test_what_stands_around_like_sites_counts": 3,
    "tests/inference/test_minibatch.py::test_batch_densities_average_to_that_of_the_whole_data": 3,
    "tests/inference/test_minibatch.py::test_batches_count_each_row_as_the_whole_data_do": 4,
    "tests/inference/test_terms.py::test_full_conditionals_are_of_the_markov_blanket": 3,
    "tests/inference/test_terms.py::test_terms_sum_to_the_potential_energy": 8,
    "tests/kernel/test_coupling.py::test_arguments_are_rows_by_what_the_kernel_does_with_them": 2,
    "tests/kernel/test_coupling.py::test_outcome_of_every_family_keeps_rows_apart": 3,
    "tests/kernel/test_coupling.py::test_row_plates_follow_the_rows_whatever_size_is_written": 2,
    "tests/kernel/test_coupling.py::test_verdict": 4,
    "tests/kernel/test_flow.py::test_primitive": 4,
    "tests/kernel/test_rows_as_a_symbol.py::test_a_verdict_is_the_same_with_and_without_those_on_other_rows": 3,
    "tests/kernel/test_series_shapes.py::test_densities_in_steps_are_those_of_numpyro": 2,
    "tests/kernel/test_spread_sites.py::test_an_intercept_predicts_one_outcome_per_row": 3,
    "tests/kernel/test_spread_sites.py::test_outcomes_are_taken_as_numpyro_takes_them": 4,
    "tests/kernel/test_time_series.py::test_the_log_likelihood_and_the_score_are_those_of_numpyro": 3,
    "tests/kernels/test_regressions.py::test_waves_have_the_size_of_their_spread_whatever_the_columns": 3,
    "tests/laws/test_invariance.py::test_draws_do_not_change_when_the_number_of_rows_is_not_known": 3,
    "tests/laws/test_invariance.py::test_draws_do_not_change_with_the_sites_that_are_returned": 2,
    "tests/laws/test_invariance.py::test_draws_of_leading_rows_do_not_change_with_the_rows_after_them": 3,
    "tests/laws/test_lifetimes.py::test_a_copy_of_a_model_does_not_share_its_temporary_directory": 3,
    "tests/laws/test_parity.py::test_small_tiles_equal_the_whole_data_answer": 3,
    "tests/laws/test_randomness.py::test_two_draws_in_one_loop_are_those_that_each_would_be": 3,
    "tests/likelihoods/test_drift_diffusion.py::test_log_densities_keep_their_digits": 3,
    "tests/likelihoods/test_drift_diffusion.py::test_what_a_deadline_hides_adds_up_to_one": 3,
    "tests/likelihoods/test_validation.py::test_priors_that_never_reach_the_box_are_told_so": 3,
    "tests/mlflow/test_mlflow_estimators.py::test_an_estimator_is_saved_and_predicts_bit_for_bit": 2,
    "tests/model/test_copying.py::test_kernels_without_a_name_are_pickled": 2,
    "tests/model/test_misuse.py::test_names_come_back_from_a_store_or_are_refused_by_name": 4,
    "tests/outcomes/test_observed_values.py::test_outcomes_that_no_draw_of_the_prior_can_give_are_refused_at_once": 3,
    "tests/outcomes/test_presence.py::test_missing_categories_are_left_out": 4,
    "tests/outcomes/test_presence.py::test_the_density_of_a_part_is_the_marginal": 3,
    "tests/outcomes/test_presence.py::test_the_score_is_a_mean_over_the_rows_that_count": 4,
    "tests/outcomes/test_presence.py::test_what_is_missing_has_no_gradient_and_the_rest_a_finite_one": 2,
    "tests/outcomes/test_unobserved_outcomes.py::test_a_counterfactual_draws_what_is_missing_and_replays_it": 2,
    "tests/prediction/test_draws_by_hand.py::test_supports_that_the_kernel_computes_are_held_to": 3,
    "tests/prediction/test_functions_of_sites.py::test_what_32_bits_cannot_hold_is_refused_where_it_comes": 3,
    "tests/prediction/test_functions_of_sites.py::test_what_a_site_cannot_take_is_refused_as_a_value_is": 3,
    "tests/prediction/test_functions_of_sites.py::test_what_fits_is_set": 3,
    "tests/prediction/test_new_groups.py::test_new_groups_come_from_their_distribution_and_known_ones_stay": 3,
    "tests/prediction/test_rows_together.py::test_every_order_and_part_of_a_walk": 3,
    "tests/prediction/test_rows_together.py::test_some_rows_in_another_order_are_rows_of_the_whole": 3,
    "tests/prediction/test_whole_arguments.py::test_a_matrix_of_other_columns_is_refused": 3,
    "tests/results/test_effects_of_trees.py::test_effect_does_not_wrap_or_cut_off": 3,
    "tests/results/test_effects_of_trees.py::test_site_whose_name_cannot_be_stored_is_refused": 3,
    "tests/results/test_subtracting.py::test_nothing_but_the_difference_is_written_and_it_is_that_of_two_results": 2,
    "tests/sklearn/test_sklearn.py::test_means_are_those_of_an_effect": 2,
    "tests/store/test_store_reading.py::test_a_site_that_a_function_sets_beyond_its_support_is_refused": 3,
}  # fmt: skip

#: Examples of docstrings that fit for seconds; `make docs` and `make test-all` run them.
DEAR_EXAMPLES = {
    "aimz.diagnostics.pictures.plot_ppc",
    "aimz.diagnostics.simulated.sbc",
    "aimz.effects.impact.Impact.placebo_in_space",
    "aimz.inference.chains.compiled.NUTS",
    "aimz.inference.smc.engine.SMC",
    "aimz.inference.vector.dadvi.DADVI",
    "aimz.inference.vector.laplace.Laplace",
    "aimz.inference.vector.pathfinder.Pathfinder",
    "aimz.likelihoods.diffusion.DriftDiffusion",
    "aimz.likelihoods.first_passage.log_tails",
    "aimz.likelihoods.neural.NeuralLikelihood",
    "aimz.model.comparing.compare",
    "aimz.model.described.Described.assumptions",
    "aimz.sequential.confusion.confusion",
    "aimz.sklearn.CausalRegressor",
}

#: Where the fast tests compile as a user does: digits to the last, densities in the tails, real data,
#: and examples, which print what a user sees.
OPTIMISED = (
    *("tests/laws/", "tests/families/", "tests/likelihoods/", "tests/real_data/"),
    *("tests/pages/", "aimz/"),
)
#: Files in these folders that are about what is compiled, refused, kept and cleared away: no digits.
OF_CONDUCT = (
    *("tests/laws/test_compilation.py", "tests/laws/test_concurrency.py"),
    *("tests/laws/test_contracts.py", "tests/laws/test_faults.py", "tests/laws/test_lifetimes.py"),
    *("tests/laws/test_reads.py", "tests/laws/test_security.py"),
    *("tests/likelihoods/test_external.py", "tests/likelihoods/test_kept.py"),
    *("tests/likelihoods/test_neural.py", "tests/likelihoods/test_validation.py"),
)


def optimised(file: str) -> bool:
    """Whether the fast tests of this file compile as a user does."""
    return file.startswith(OPTIMISED) and not file.startswith(OF_CONDUCT)


class Optimising:
    """Compile each file of the fast tests fast or well, those that compile well last.

    Of these the examples come last, in many short files, so that no worker waits long for the other.
    """

    FLAG = "jax_disable_most_optimizations"

    @classmethod
    def fast(cls) -> bool:
        """Whether programs are compiled without most optimisations now."""
        return bool(jax.config.read(cls.FLAG))

    @pytest.hookimpl
    def pytest_sessionstart(self) -> None:
        jax.config.update(self.FLAG, True)  # tables of distributions compile while they are read

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: optimised(item.nodeid))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        fast = not optimised(item.nodeid)
        os.environ[self.FLAG.upper()] = str(int(fast))  # for children
        if fast != self.fast():
            jax.config.update(self.FLAG, fast)
            clear_programs()  # neither cache asks for the flag
            jax.clear_caches()


def thin_out(items: Iterable[pytest.Item]) -> None:
    """Mark the other cases of these tables, and what is dear by itself, as slow."""
    seen: Counter[str] = Counter()
    for item in items:
        if item.name in DEAR_EXAMPLES:
            item.add_marker(pytest.mark.slow)
        table = item.nodeid.split("[", 1)[0]
        every = EVERY.get(table)
        if every is not None and not item.get_closest_marker("slow"):
            seen[table] += 1
            if seen[table] % every:  # the last of each run: the first is often the dearest
                item.add_marker(pytest.mark.slow)
