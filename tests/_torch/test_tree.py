"""The wrapped tree: names, indices, attributes, methods, printing, copies."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from tracekit import Model, NotRunningError, UnknownNameError

X = torch.ones(1, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.mlp(self.attn(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)})
        self.register_buffer("scale", torch.ones(1))
        self.config = {"size": 4}

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.heads["a"](x) * self.scale

    @property
    def broken(self):
        return self.config.missing


class Hidden(nn.Module):
    """Children named like ports and methods."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(4, 4)
        self.trace = nn.ReLU()

    def forward(self, x):
        return self.trace(self.output(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def model(net):
    return Model(net)


class TestNames:
    def test_paths_are_those_of_named_modules(self, net, model):
        assert [name for name, _ in net.named_modules()] == [n for n, _ in model.named_modules()]
        assert all(node.path == name for name, node in model.named_modules())
        assert list(net.modules()) == [node._module for node in model.modules()]

    def test_one_node_a_module(self, model):
        assert model.layers[1].mlp is model.get("layers.1.mlp")
        assert model.layers[1].mlp is model.layers[1].mlp

    def test_a_path_that_ends_in_a_port(self, net, model):
        x = torch.randn(1, 4)
        with model.trace(x):
            values = [model.get(f"layers.1.mlp.{port}") for port in ("input", "output")]
            same = model.layers[2].get("mlp.output")
            nothing = model.get("")

        assert torch.equal(values[1], net.layers[1].mlp(values[0]))
        assert same.shape == values[1].shape
        assert nothing is model

    def test_index(self, model):
        assert model.layers[-1].path == "layers.2"
        assert model.layers[0].mlp[1].path == "layers.0.mlp.1"
        assert [node.path for node in model.layers[1:]] == ["layers.1", "layers.2"]
        assert model.heads["a"].path == "heads.a"
        assert model["layers"].path == "layers"
        assert model["layers.0.attn"].path == "layers.0.attn"
        with pytest.raises(IndexError, match="`model.layers` has 3 children, no number 7"):
            model.layers[7]

    def test_len_iter_contains(self, model):
        assert len(model.layers) == 3
        assert [node.path for node in model.layers] == ["layers.0", "layers.1", "layers.2"]
        assert list(model.heads) == ["a", "b"]
        assert "a" in model.heads
        assert model.layers[0] in model.layers
        assert bool(model)

    def test_children_and_parent(self, model):
        assert [node.path for node in model.children()] == ["layers", "heads"]
        assert [n for n, _ in model.named_children()] == ["layers", "heads"]
        assert model.layers[0].parent is model.layers
        assert model.layers[0].root is model
        assert model.parent is None

    def test_find(self, model):
        assert [node.path for node in model.find("*.mlp")] == [f"layers.{i}.mlp" for i in range(3)]
        assert model.find("nothing") == []

    def test_include(self, model):
        linear = lambda node: isinstance(node._module, nn.Linear)

        assert len(model.modules(linear)) == 8

    def test_unknown_names_list_the_nearest(self, model):
        with pytest.raises(UnknownNameError) as caught:
            model.layer

        assert "`model` (Net) has no `layer`" in str(caught.value)
        assert "did you mean `model.layers`?" in str(caught.value)
        assert not hasattr(model, "nothing_like_it")
        with pytest.raises(UnknownNameError):
            model.get("layers.0.mpl")
        with pytest.raises(UnknownNameError):
            model["heds"]

    def test_an_unknown_name_may_be_near_to_a_port(self, model):
        with pytest.raises(UnknownNameError) as caught:
            model.layers[0].outptu

        assert "did you mean `model.layers.0.output`?" in str(caught.value)
        assert caught.value.__suppress_context__, "torch's words say no more"

    def test_the_words_of_a_module_that_looks_up_names_itself_are_kept(self):
        class Own(nn.Module):
            def __getattr__(self, name):
                raise AttributeError(f"{name}: see the page on names")

        with pytest.raises(UnknownNameError) as caught:
            Model(Own()).something

        assert "see the page on names" in str(caught.value.__cause__)

    def test_an_attribute_error_of_a_property_is_left_alone(self, model):
        with pytest.raises(AttributeError, match="'dict' object has no attribute 'missing'"):
            model.broken

    def test_dir(self, model):
        assert {"layers", "heads", "scale", "config", "trace", "output"} <= set(dir(model))

    def test_a_replaced_module_gets_another_node(self, net, model):
        before = model.layers[0].attn
        net.layers[0].attn = nn.Linear(4, 4)

        assert model.layers[0].attn is not before
        with model.trace(X):
            out = model.layers[0].attn.output
        assert torch.equal(out, net.layers[0].attn(X))


class TestAttributes:
    def test_they_are_the_modules(self, net, model):
        assert model.config is net.config
        assert model.layers[0].attn.weight is net.layers[0].attn.weight
        assert model.layers[0].attn.in_features == 4

    def test_setting_reaches_the_module(self, net, model):
        weight = nn.Parameter(torch.zeros(4, 4))
        model.layers[0].attn.weight = weight
        model.scale = torch.full((1,), 2.0)
        model.flag = "new"

        assert net.layers[0].attn.weight is weight
        assert net.state_dict()["scale"].item() == 2
        assert net.flag == "new"
        del model.flag
        assert not hasattr(net, "flag")

    def test_augmented(self, net, model):
        before = net.scale.clone()
        model.scale += 1

        assert torch.equal(net.scale, before + 1)

    def test_self_returning_methods_give_the_wrapper(self, net, model):
        assert model.eval() is model
        assert model.requires_grad_(False) is model
        assert model.double().half().float() is model
        assert model.to(torch.float64) is model
        assert model.cpu() is model
        assert net.scale.dtype is torch.float64
        assert not net.training

    def test_device(self, model):
        assert model.device == torch.device("cpu")
        assert model.devices == {torch.device("cpu")}
        assert Model(nn.ReLU()).device is None

    def test_a_module_is_wrapped_once(self, net, model):
        assert Model(model)._module is net
        with pytest.raises(TypeError, match="a torch.nn.Module is wrapped, not 'int'"):
            Model(3)


class TestHiddenNames:
    def test_ours_win_and_the_child_is_an_item(self, clean):
        net = clean(Hidden())
        model = Model(net)

        assert model["output"].path == "output"
        with pytest.raises(NotRunningError):
            model.output
        with model.trace(X):
            inner = model["output"].output
            outer = model.output

        assert torch.equal(inner, net.output(X))
        assert torch.equal(outer, net(X))

    def test_repr_marks_them(self):
        assert repr(Model(Hidden())) == (
            "Hidden(\n"
            '  (["output"]): Linear(in_features=4, out_features=4, bias=True)\n'
            '  (["trace"]): ReLU()\n'
            ")"
        )


class TestPrinting:
    def test_equal_neighbours_are_folded(self, model):
        assert repr(model) == (
            "Net(\n"
            "  (layers): ModuleList(\n"
            "    (0-2): 3 x Block(\n"
            "      (attn): Linear(in_features=4, out_features=4, bias=True)\n"
            "      (mlp): Sequential(\n"
            "        (0): Linear(in_features=4, out_features=4, bias=True)\n"
            "        (1): ReLU()\n"
            "      )\n"
            "    )\n"
            "  )\n"
            "  (heads): ModuleDict(\n"
            "    (a): Linear(in_features=4, out_features=2, bias=True)\n"
            "    (b): Linear(in_features=4, out_features=2, bias=True)\n"
            "  )\n"
            ")"
        )

    def test_a_leaf(self):
        assert repr(Model(nn.ReLU())) == "ReLU()"


class TestRename:
    def test_a_path_and_a_class(self, net):
        model = Model(net, rename={"layers": "h", nn.ModuleDict: ["out"]})

        assert model.h is model.layers
        assert model.out is model.heads
        assert repr(model).startswith("Net(\n  (h/layers): ModuleList(")

    def test_any_node_is_a_start(self, net):
        model = Model(net, rename={".mlp": "ffn"})

        assert model.layers[2].ffn is model.layers[2].mlp
        assert model.get("layers.2.ffn") is model.layers[2].mlp
        assert [n for n, _ in model.layers[0].named_children()] == ["attn", "mlp"]

    def test_what_hides_something_is_refused(self, net):
        for alias in ("heads", "trace", "config", "output"):
            with pytest.raises(ValueError, match=f"alias '{alias}' would hide"):
                Model(net, rename={"layers": alias})

    def test_two_matches_are_refused(self, net):
        with pytest.raises(ValueError, match="matches 3 modules"):
            Model(net, rename={"layers.*": "block"})

    def test_one_alias_for_two_is_refused(self, net):
        with pytest.raises(ValueError, match="means both"):
            Model(net, rename={"layers": "x", "heads": "x"})

    def test_a_key_that_matches_nothing_warns(self, net):
        with pytest.warns(UserWarning, match="rename key 'nothing' matches no module"):
            Model(net, rename={"nothing": "x"})


class TestCopies:
    def test_deepcopy(self, clean, net, model):
        twin = copy.deepcopy(model)

        assert twin._module is not net
        assert twin.layers[0]._module is twin._module.layers[0]
        twin.layers[0].attn.weight.data.zero_()
        assert net.layers[0].attn.weight.any()
        with twin.trace(X):
            out = twin.layers[0].attn.output
        assert torch.equal(out, twin._module.layers[0].attn.bias.expand(1, 4))

    def test_pickle(self, net, model):
        twin = pickle.loads(pickle.dumps(model))

        assert torch.equal(twin(X), net(X))
        assert twin.layers[0].root is twin

    def test_a_copy_made_in_a_run_is_clean(self, clean, net, model):
        clean(net)
        with model.trace(X):
            model.layers[0].output
            twin = copy.deepcopy(net)
        twin.layers[0].attn.weight.data.zero_()
        twin.layers[0].attn.bias.data.zero_()
        expected = twin.layers[0].mlp(torch.zeros(1, 4))

        assert torch.equal(twin.layers[0](X), expected)

    def test_a_wrapper_is_no_cycle(self):
        gc.collect()
        gc.disable()
        try:
            model = Model(Net())
            model.layers[0].mlp
            ref = weakref.ref(model)
            del model

            assert ref() is None
        finally:
            gc.enable()
