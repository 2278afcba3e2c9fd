"""The consumer of a registered model reads a chat with one BOS token, though template and tokenizer both write one."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.data.chat_templates import BUILT_IN
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from tasks.consumer import ChatModel


def test_a_chat_is_read_with_one_bos(tmp_path):
    tokenizer = train_tokenizer(["A short text."] * 9, 270)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    prepare_tokenizer(tokenizer, BUILT_IN["llama3"]).save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path)
    consumer, read = ChatModel(), []
    consumer.load_context(SimpleNamespace(artifacts={"checkpoint": str(tmp_path)}))
    consumer.model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0].tolist()))
    consumer.predict(None, [{"role": "user", "content": "Hi"}], {"max_new_tokens": 1})
    text = "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.decode(read[0]) == text
    assert read[0].count(bos) == 1
