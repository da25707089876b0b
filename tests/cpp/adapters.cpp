// Adapters: of a generator, and by name on the model.
#include "test.hpp"

using test::tokens;

namespace {

tokens generate(const mcandle::model &model, const mcandle::adapter *adapter = nullptr) {
    auto generator = mcandle::generator::create(model);
    if (adapter != nullptr) {
        generator.set_adapter(*adapter);
    }
    return test::to_vector(
        generator.generate(test::PROMPT, mcandle::generate_options().max_tokens(24)).tokens());
}

} // namespace

TEST(adapters_are_loaded_saved_and_merged) {
    const test::folder folder;
    const auto style = mcandle::adapter::load(test::STYLE_ADAPTER, test::model());
    CHECK(style.rank() == 8 && style.parameter_count() == 233472);
    const auto styled = generate(test::model(), &style);
    CHECK(styled != generate(test::model()));
    CHECK(generate(test::model().merge(style)) == styled);

    style.save(folder / "peft");
    style.save(folder / "mlx", mcandle::adapter_format::mlx);
    CHECK(std::filesystem::exists(folder / "mlx" / "adapters.safetensors"));
    for (const char *name : {"peft", "mlx"}) {
        const auto saved = mcandle::adapter::load(folder / name, test::model());
        CHECK(generate(test::model(), &saved) == styled);
    }
    FAILS(mcandle::adapter::load(folder / "missing", test::model()), not_found, "missing");

    auto generator = mcandle::generator::create(test::model());
    generator.set_adapter(style);
    generator.clear_adapter();
    const auto plain = generator.generate(test::PROMPT, mcandle::generate_options().max_tokens(24));
    CHECK(test::to_vector(plain.tokens()) == test::reference(24));
    auto moved = mcandle::adapter::load(test::STYLE_ADAPTER, test::model());
    const auto taken = std::move(moved);
    FAILS(generator.set_adapter(moved), null_pointer, "moved from");
}

TEST(models_have_adapters_by_name) {
    const auto model = mcandle::model::load(test::MODEL);
    const auto style = mcandle::adapter::load(test::STYLE_ADAPTER, model);
    const auto plain = generate(model);
    const auto styled = generate(model, &style);
    model.add_adapter("style", style);
    model.load_adapter("names", test::NAMES_ADAPTER);
    CHECK(generate(model) == plain);
    model.activate_adapter("style");
    CHECK(generate(model) == styled);
    model.set_adapter_weight("style", 0);
    CHECK(generate(model) == plain);
    model.set_adapter_weight("style", 1);
    model.set_active_adapters({"names"});

    const auto list = model.list_adapters();
    CHECK(list.size() == 2 && list[0].name == "names" && list[1].name == "style");
    CHECK(list[0].is_active && !list[1].is_active && list[1].weight == 1);
    CHECK(list[0].rank == 4 && list[1].rank == 8 && list[1].parameter_count == 233472);
    CHECK(!list[0].use_dora);
    CHECK(model.list_adapters_json().find("\"name\":\"names\"") != std::string::npos);

    model.set_active_adapters({});
    CHECK(generate(model) == plain);
    model.set_active_adapters({"style", "names"});
    model.deactivate_adapter("names");
    CHECK(generate(model) == styled && model.get_adapter("style").rank() == 8);
    model.unload_adapter("style");
    CHECK(generate(model) == plain && model.list_adapters().size() == 1);
    FAILS(model.get_adapter("style"), invalid_argument, "style");
    FAILS(model.activate_adapter(std::string_view("names\0x", 7)), invalid_utf8, "name");
}
